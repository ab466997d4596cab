"""Coverage-guided fuzzing of one target with atheris (the extra `fuzz`).

    python tests/fuzz/run.py TARGET [--keep] [OPTION OF LIBFUZZER…]

It starts from the seeds and the corpus, and runs until an input breaks the invariant, or as long as
the options say (`-runs=100000`, `-max_total_time=600`, `-seed=1`). An input that breaks it is
printed in hexadecimal digits: a line for `corpus/TARGET.txt`. With `--keep`, the shortest inputs
that reached further code are added there. Without a target, the names of all targets are printed.

libFuzzer ends the process that it runs in, so each run is a process of its own.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent.parent
_FUZZ = "--fuzz"  # what the process of libFuzzer is started with
_LONGEST = 2048
_MOST_ADDED = 24

sys.path[:0] = [str(TESTS), str(TESTS.parent)]


def fuzz(name: str, words: list[str]) -> None:
    """Run libFuzzer in this process."""
    import atheris

    with atheris.instrument_imports(include=["hogpipe"], enable_loader_override=False):
        from fuzz.targets import TARGETS
    run = TARGETS[name].run

    def run_one(data: bytes) -> None:
        try:
            run(data)
        except BaseException:
            print(f"broken by the input {data.hex()}", file=sys.stderr, flush=True)
            raise

    atheris.Setup([sys.argv[0], *words], run_one)
    atheris.Fuzz()


def main(name: str, words: list[str]) -> int:
    """Run libFuzzer on the inputs of a target; return its exit code."""
    from fuzz.inputs import add_to_corpus, list_inputs

    keeps = "--keep" in words
    options = [f"-max_len={_LONGEST}", "-timeout=20", "-rss_limit_mb=2048"]
    options += [word for word in words if word != "--keep"]
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found"
        found.mkdir()
        for number, one in enumerate(list_inputs(name)):
            (found / f"input-{number}").write_bytes(one)
        program = [sys.executable, __file__, name, _FUZZ, f"-artifact_prefix={folder}/"]
        code = subprocess.run([*program, *options, str(found)], check=False).returncode
        if code == 0 and keeps:
            inputs = [path.read_bytes() for path in found.iterdir()]
            add_to_corpus(name, inputs, _MOST_ADDED)
    return code


if __name__ == "__main__":
    if len(sys.argv) < 2:
        from fuzz.targets import TARGETS

        print("\n".join(TARGETS))
    elif _FUZZ in sys.argv:
        fuzz(sys.argv[1], [word for word in sys.argv[2:] if word != _FUZZ])
    else:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
