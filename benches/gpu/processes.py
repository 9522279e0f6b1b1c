"""Processes with a time limit, and the memory they take, by one ruler for both sides."""

import ctypes
import os
import subprocess
import tempfile
import time


class NvmlMemory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_ulonglong) for name in ("total", "free", "used")]


class Gpu:
    """What the driver says, by NVML, which nvidia-smi asks too: all memory of the card in use,
    less what was in use when the script began. It counts contexts, code and the pools of
    allocators, on both sides alike."""

    ruler = "GPU memory in use by NVML, less that of the idle GPU"

    def __init__(self):
        self.nvml = ctypes.CDLL("libnvidia-ml.so.1")
        self.handle = ctypes.c_void_p()
        first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        index = int(first) if first.isdigit() else 0
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self.handle)):
            raise OSError("NVML does not open the GPU")
        self.idle = self.memory().used

    def memory(self):
        memory = NvmlMemory()
        self.nvml.nvmlDeviceGetMemoryInfo(self.handle, ctypes.byref(memory))
        return memory

    def describe(self):
        name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
        self.nvml.nvmlDeviceGetName(self.handle, name, 96)
        self.nvml.nvmlSystemGetDriverVersion(driver, 96)
        return {"gpu": name.value.decode(), "driver": driver.value.decode(),
                "gpu_memory": self.memory().total, "gpu_memory_idle": self.idle}

    def settle(self):
        """Waits until what ran before has given its memory back."""
        until = time.monotonic() + 15
        while self.memory().used > self.idle + (64 << 20) and time.monotonic() < until:
            time.sleep(0.1)

    def sample(self, _pid):
        return self.memory().used - self.idle


class Host:
    """In place of a GPU: the most resident memory of the process."""

    ruler = "peak resident memory"

    def describe(self):
        return {"gpu": None, "driver": None}

    def settle(self):
        pass

    def sample(self, pid):
        try:
            with open(f"/proc/{pid}/status") as status:
                return 1024 * int(next(line for line in status if line.startswith("VmHWM:")).split()[1])
        except (OSError, StopIteration):
            return 0


class Failed(Exception):
    """A process that did not do its work, in a few words."""


def run(command, limit, meter, enough=None, env=None):
    """Runs a command to its end, to its limit in seconds, or until `enough()`. Gives its output
    and the most memory seen; polls every 10 ms."""
    if limit <= 0:
        raise Failed("no time left")
    meter.settle()
    most, started, stopped = 0, time.monotonic(), None
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=err, env={**os.environ, **(env or {})})
        try:
            while process.poll() is None:
                most = max(most, meter.sample(process.pid))
                if enough and enough():
                    stopped = "enough"
                    break
                if time.monotonic() - started > limit:
                    stopped = "time"
                    break
                time.sleep(0.01)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
        out.seek(0)
        err.seek(0)
        stdout, stderr = (file.read().decode(errors="replace") for file in (out, err))
    if stopped == "time":
        raise Failed(f"took more than {limit / 60:.0f} min")
    if stopped is None and process.returncode != 0:
        raise Failed(reason(process.returncode, stderr))
    return stdout, most


def reason(code, stderr):
    signs = ("out of memory", "out_of_memory", "outofmemory", "memory is full", "buffertoobig", "status_alloc_failed")
    if any(sign in stderr.lower() for sign in signs):
        return "out of memory"
    if code == -9:
        return "killed, perhaps for want of host memory"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")] or lines[-1:]
    return (errors[0] if errors else f"exit code {code}")[:300]
