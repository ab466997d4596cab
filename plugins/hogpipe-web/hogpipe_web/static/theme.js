// Sets the theme before the page is drawn. `auto` follows the system.
"use strict";
try {
  document.documentElement.dataset.theme = localStorage.getItem("hogpipe-theme") || "auto";
} catch {
  document.documentElement.dataset.theme = "auto"; // storage is blocked
}
