"""What the scripts in the directory above share: they skip, run welore-cli and other programs, check, and end.

    sys.path.insert(0, str(Path(__file__).resolve().parent / "common"))
    import checks

Import this before any package: it takes their directory out of the places where Python looks for modules, because
the scripts have the names of packages. It also sets what transformers and welore-cli read from the environment, so
that nothing is fetched, and nothing is kept after the script.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
NAME = Path(sys.argv[0]).stem
FIXTURES = SCRIPTS.parent / "fixtures"
STORY = FIXTURES / "story.txt"

_SCRATCH = tempfile.TemporaryDirectory(prefix="welore-interop-")
# A directory for the files of the script, which is removed when it ends.
WORK = Path(_SCRATCH.name)

sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != SCRIPTS]
for _name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ[_name] = "1"
os.environ |= {"HF_HOME": str(WORK / "huggingface"), "TOKENIZERS_PARALLELISM": "false"}
# As the driver has it, for a script that runs alone.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WELORE_CACHE", str(WORK / "cache"))
os.environ.pop("WELORE_CONFIG", None)

_made, _failed = 0, 0


class Broken(Exception):
    """Why a script, or a part of it, cannot go on."""


def skipped(why):
    """Says that a part of the script cannot run here."""
    print(f"SKIPPED: {NAME}: {why}", flush=True)


def lacks(*packages):
    """The packages of these that Python does not have, as a reason; none if it has all."""
    missing = [f"`{name}`" for name in packages if importlib.util.find_spec(name) is None]
    return f"Python has no package {', '.join(missing)}" if missing else None


def need(*packages):
    """Ends a script that needs packages that Python does not have."""
    why = lacks(*packages)
    if why:
        skipped(why)
        sys.exit(0)


def check(holds, what, detail=""):
    """Prints the line of a check."""
    global _made, _failed
    _made += 1
    _failed += 0 if holds else 1
    print(f"{'ok    ' if holds else 'FAILED'} {what}{': ' if detail else ''}{detail}", flush=True)


def near(what, difference, most=1e-4, without=None):
    """Checks that results differ by no more than `most`.

    `without` is how far they are apart where the program did nothing. The check fails if that is not much more than
    `most`, because then it would pass whatever the program does.
    """
    tells = without is None or without > 10 * most
    beside = "" if without is None else f", beside {without:.1e} without it"
    too_little = "" if tells else ", which is too little for a check"
    check(difference <= most and tells, what, f"differs by {difference:.1e}{beside}{too_little}")


def same(what, ours, theirs):
    """Checks that results are equal, and prints them only if they are not; whether they are."""
    global _made
    if ours != theirs:
        check(False, what, f"\n  welore {ours!r}\n  other  {theirs!r}")
        return False
    _made += 1
    return True


class Welore:
    """The program that is checked."""

    def __init__(self, path):
        self.path = path

    def done(self, *words):
        """What came of a command, whether or not it succeeded."""
        return _done(self.path, *words)

    def run(self, *words):
        """What a command writes; `Broken` if it fails."""
        done = self.done(*words)
        if done.returncode != 0:
            raise Broken(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *words):
        return json.loads(self.run(*words, "--json"))

    def refusal(self, *words):
        """The message of a command that has to refuse its input."""
        done = self.done(*words)
        return done.stderr if done.returncode == 2 else f"(exit code {done.returncode})"


def _done(*line):
    return subprocess.run(
        [str(word) for word in line], capture_output=True, stdin=subprocess.DEVNULL, encoding="utf-8",
        errors="replace", check=False,
    )


def llama_cpp(name):
    """A program of llama.cpp; none, after a line that says so, if there is none."""
    found = shutil.which(name, path=os.environ.get("WELORE_LLAMA_CPP") or os.devnull)
    if found is None:
        skipped(f"llama.cpp: no `{name}` in $WELORE_LLAMA_CPP")
    return found


def of_llama_cpp(read, *line):
    """What `read` finds in the output of a program of llama.cpp, on standard output and on standard error.

    On a busy machine such a program sometimes ends before its last lines are written, so it runs again if `read` finds
    nothing.
    """
    for _ in range(10):
        done = _done(*line)
        if done.returncode != 0:
            break
        found = read(done.stdout, done.stderr)
        if found is not None:
            return found
    raise Broken(f"{Path(line[0]).name} ends with {done.returncode}: {done.stdout[-500:]}{done.stderr[-2000:]}")


def perplexity_in_llama_cpp(program, file, length, windows, *options):
    """The perplexity of the story's first windows, by `llama-perplexity`."""
    def read(out, err):
        found = re.search(r"Final estimate: PPL = ([0-9.]+) ", out + err)
        return found and float(found[1])

    cut = ["-f", STORY, "-c", length, "--chunks", windows]
    return of_llama_cpp(read, program, "-m", file, *cut, "-t", 1, "-ngl", 0, *options)


def run(main, usage, most=0):
    """Runs `main` with the program and up to `most` words that follow it, and ends the script.

    It ends with 1 if a check failed, or if there was none.
    """
    words = sys.argv[1:]
    if not 1 <= len(words) <= 1 + most:
        sys.exit(usage)
    path = shutil.which(words[0]) or sys.exit(f"{NAME}: {words[0]} is not a program")
    try:
        main(Welore(path), *words[1:])
    except Broken as error:
        check(False, str(error))
    print(f"{_made - _failed} of {_made} checks hold" if _made else "nothing was checked")
    sys.exit(1 if _failed or not _made else 0)
