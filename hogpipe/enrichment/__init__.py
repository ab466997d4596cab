"""What is known of a process beyond its pid: names, user, unit, container, pod."""
