"""Runs the program once, within limits, and tells what is wrong with how it ended."""

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 20.0
BYTES = 2_000_000_000
# Beyond this the system refuses memory, so that a bomb does not take the machine down.
ADDRESS_SPACE = 16 << 30
SHOWN = 1 << 20


@dataclass
class Outcome:
    """How one run of the program ended."""

    words: list
    code: int | None = None
    signal: int | None = None
    seconds: float = 0.0
    peak: int = 0
    out: str = ""
    err: str = ""
    problems: list = field(default_factory=list)

    def kind(self):
        return f"exit {self.code}" if self.signal is None else signal.Signals(self.signal).name


class Program:
    """The program under test. Everything that it may write outside of its outputs is in `case`."""

    def __init__(self, binary, case):
        self.binary, self.case = binary, case

    def environment(self):
        case = str(self.case)
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "LD_LIBRARY_PATH")}
        return kept | {
            "HOME": f"{case}/home", "TMPDIR": f"{case}/tmp", "WELORE_CACHE": f"{case}/cache",
            "HF_HUB_OFFLINE": "1", "HF_HOME": f"{case}/hub", "WELORE_BACKEND": "flex",
        }

    def start(self, words, before=(), file_size=None):
        """Starts the program in a session of its own, perhaps under another one such as strace."""

        def prepare():
            os.nice(10)
            resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if file_size is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))

        return subprocess.Popen(
            [*before, str(self.binary), *words], cwd=self.case, env=self.environment(),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True, preexec_fn=prepare)

    def run(self, words, disturb=None, limit=SECONDS, **how):
        """Runs to the end. `disturb` is called with the process in a thread of its own."""
        process = self.start(words, **how)
        return self.finish(process, words, disturb, limit, expected=bool(how.get("before")))

    def finish(self, process, words, disturb=None, limit=SECONDS, expected=False):
        outcome, started = Outcome(list(map(str, words))), time.monotonic()
        texts = [bytearray(), bytearray()]
        readers = [threading.Thread(target=read, args=pair, daemon=True)
                   for pair in zip((process.stdout, process.stderr), texts)]
        for reader in readers:
            reader.start()
        sent = []
        disturbing = threading.Thread(target=lambda: sent.extend(disturb(process) or []), daemon=True)
        if disturb:
            disturbing.start()
        hung = False
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > limit and not hung:
                hung = True
                os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.002)
        outcome.seconds, outcome.peak = time.monotonic() - started, usage.ru_maxrss * 1024
        code = os.waitstatus_to_exitcode(status)
        process.returncode = code
        if code < 0:
            outcome.signal = -code
            if disturb:
                # It may not yet have told what it sent.
                disturbing.join(1)
        else:
            outcome.code = code
        for reader in readers:
            reader.join(2)
        outcome.out, outcome.err = (bytes(text).decode(errors="replace") for text in texts)
        judge(outcome, hung, limit, sent, expected)
        return outcome


def read(stream, text):
    while piece := stream.read1(1 << 16):
        if len(text) < SHOWN:
            text.extend(piece)


def judge(outcome, hung, limit, sent, expected):
    """Notes what no run may do, whatever it was given."""
    say = outcome.problems.append
    if hung:
        say(f"hang: more than {limit:.0f} s")
    elif outcome.signal is not None and outcome.signal not in sent and not expected:
        say(f"signal: {outcome.kind()}")
    elif outcome.code not in (None, 0, 1, 2):
        say(f"exit code: {outcome.code}")
    for text in ("internal error", "panicked", "memory allocation of", "stack overflow"):
        if text in outcome.err:
            say(f"panic: {text}")
    if outcome.peak > BYTES:
        say(f"memory: {outcome.peak / 1e9:.1f} GB")
    if re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", outcome.err + outcome.out):
        say("terminal: control characters")
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    # A second signal ends the program without a word.
    if outcome.code in (1, 2) and len(errors) != 1 and not sent and not expected:
        say(f"message: {len(errors)} lines of errors")
    if any(len(line) > 2000 for line in errors):
        say("message: longer than 2000 characters")


# Not the same in every run: when and how fast, the random ids of parameters in checkpoints, and what
# compares gradients with those before a kill.
UNSTABLE = ("train.log", "lock", "checkpoints", "gradients.json")
TIMES = re.compile("second|memory|time|similarity")


def tree(root):
    """What is in a directory, or a file, by relative path, without what depends on time."""
    root = Path(root)
    paths = sorted(root.rglob("*")) if root.is_dir() and not root.is_symlink() else [root]
    return {str(path.relative_to(root)): digest(path) for path in paths
            if not set(path.relative_to(root).parts) & set(UNSTABLE) and (path.is_symlink() or path.exists())}


def digest(path):
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        return "directory"
    content = path.read_bytes()
    if path.name in ("metrics.jsonl", "gradients.jsonl"):
        content = "\n".join(map(timeless, content.decode(errors="replace").splitlines())).encode()
    return hashlib.sha256(content).hexdigest()


def timeless(line):
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(fields, dict):
        return line
    return json.dumps({k: v for k, v in fields.items() if not TIMES.search(k)}, sort_keys=True)


def litter(*roots):
    """Hidden files, which no finished or refused command leaves behind."""
    return [str(path) for root in roots if root.is_dir()
            for path in root.rglob("*") if path.name.startswith(".")]
