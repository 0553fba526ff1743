"""What NVIDIA's driver tells of its GPUs, through its own library, so that no program need be started.

Main entry: `GpuMeter`. Invariant: without a GPU, a driver or a right to ask there are simply no readings.

Source: the NVML API reference, for names and the layout of its structures.
"""

import ctypes
from collections.abc import Iterable, Mapping
from contextlib import suppress
from ctypes import byref
from dataclasses import dataclass, field

_LIBRARY = "libnvidia-ml.so.1"
_SUCCESS = 0
_NOT_AVAILABLE = (1 << 64) - 1  # NVML_VALUE_NOT_AVAILABLE
_NAME_BYTES = 96  # NVML_DEVICE_NAME_V2_BUFFER_SIZE
_MOST_PROCESSES = 1024
_TEMPERATURE_GPU = 0


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _Utilization(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class _ProcessInfo(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint),
        ("used", ctypes.c_ulonglong),
        ("gpu_instance", ctypes.c_uint),
        ("compute_instance", ctypes.c_uint),
    )


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one moment; None for what the driver does not tell.

    Attributes:
        index: Its number on this machine.
        name: Its model.
        busy_percent: Share of the last moment in which it computed.
        used_bytes: Memory in use, by whomever.
        total_bytes: Memory it has.
        temperature_c: Degrees Celsius.
        power_w: Watts drawn.
        process_bytes: Memory in use by pid.
    """

    index: int
    name: str = "GPU"
    busy_percent: int | None = None
    used_bytes: int | None = None
    total_bytes: int | None = None
    temperature_c: int | None = None
    power_w: float | None = None
    process_bytes: Mapping[int, int] = field(default_factory=dict)


class GpuMeter:
    """Reads all GPUs of this machine; it may take a second to find the first time.

    Args:
        library: The driver's library.
    """

    def __init__(self, library: str = _LIBRARY) -> None:
        self._nvml: ctypes.CDLL | None = None
        with suppress(OSError):
            nvml = ctypes.CDLL(library)
            if nvml.nvmlInit_v2() == _SUCCESS:
                self._nvml = nvml

    def read(self) -> list[GpuReading]:
        """Every GPU as it is now."""
        count = ctypes.c_uint()
        if not self._call("nvmlDeviceGetCount_v2", byref(count)):
            return []
        return [self._read(index) for index in range(count.value)]

    def _read(self, index: int) -> GpuReading:
        gpu = ctypes.c_void_p()
        if not self._call("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index), byref(gpu)):
            return GpuReading(index)
        name, memory, busy = ctypes.create_string_buffer(_NAME_BYTES), _Memory(), _Utilization()
        celsius, milliwatts = ctypes.c_uint(), ctypes.c_uint()
        kind, size = ctypes.c_uint(_TEMPERATURE_GPU), ctypes.c_uint(_NAME_BYTES)
        has_memory = self._call("nvmlDeviceGetMemoryInfo", gpu, byref(memory))
        has_rates = self._call("nvmlDeviceGetUtilizationRates", gpu, byref(busy))
        has_name = self._call("nvmlDeviceGetName", gpu, name, size)
        has_temperature = self._call("nvmlDeviceGetTemperature", gpu, kind, byref(celsius))
        has_power = self._call("nvmlDeviceGetPowerUsage", gpu, byref(milliwatts))
        return GpuReading(
            index,
            name.value.decode(errors="replace") if has_name else "GPU",
            busy_percent=busy.gpu if has_rates else None,
            used_bytes=memory.used if has_memory else None,
            total_bytes=memory.total if has_memory else None,
            temperature_c=celsius.value if has_temperature else None,
            power_w=milliwatts.value / 1000 if has_power else None,
            process_bytes=self._processes(gpu),
        )

    def _processes(self, gpu: ctypes.c_void_p) -> dict[int, int]:
        count, found = ctypes.c_uint(_MOST_PROCESSES), (_ProcessInfo * _MOST_PROCESSES)()
        if not self._call("nvmlDeviceGetComputeRunningProcesses_v3", gpu, byref(count), found):
            return {}
        return {info.pid: info.used for info in found[: count.value] if info.used != _NOT_AVAILABLE}

    def _call(self, name: str, *arguments: object) -> bool:
        """Call a function of the library; whether there is one and it succeeded."""
        function = getattr(self._nvml, name, None)
        return function is not None and function(*arguments) == _SUCCESS


def memory_of(readings: Iterable[GpuReading], pids: Iterable[int], given: Iterable[int]) -> int | None:
    """GPU memory that a run holds: that of its processes, else all that is used of the GPUs it was given.

    The driver may not know processes in a container by the numbers they have inside it.

    Args:
        readings: The GPUs.
        pids: The run's processes.
        given: Indexes of the GPUs that are the run's alone.

    Returns:
        Bytes; None where there is no telling.
    """
    readings, pids, given = list(readings), set(pids), set(given)
    held = sum(size for reading in readings for pid, size in reading.process_bytes.items() if pid in pids)
    if held:
        return held
    own = [reading.used_bytes for reading in readings if reading.index in given]
    return sum(size or 0 for size in own) if own else None
