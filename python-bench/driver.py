"""CUDA sources compiled with NVRTC and launched through the CUDA driver on PyTorch's tensors and stream.

    lists = Source("lists.cu")
    lists("nearest_16", blocks, threads, points, 0, 40000, ...)

Nothing but the two libraries is needed: no toolkit, no host compiler. Arguments are tensors, ints (`int` of the kernel) and
floats (`float`). A source is compiled at its first launch, again for double precision where a tensor is of that
(`REAL`). Without a GPU, `emulate` lets the kernels run on Cairn's emulator, on tensors in the memory of the CPU.
"""

import ctypes
import functools
from pathlib import Path

import torch

HERE = Path(__file__).parent
emulator = None  # the driver of tensors on the CPU, if any


@functools.cache
def load_nvrtc():
    """PyTorch's own NVRTC, that of the toolkit, the one that `kernels/fetch-nvrtc` brings, or that of the system."""
    places = [Path(torch.__file__).parent.parent / "nvidia", Path("/usr/local/cuda/lib64"), HERE.parent / "target" / "nvrtc"]
    found = [p for place in places for p in sorted(place.rglob("libnvrtc.so*"))]
    for name in [*found, *map(Path, ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"))]:
        try:
            for builtins in sorted(name.parent.glob("libnvrtc-builtins.so*")):  # it does not look beside itself everywhere
                ctypes.CDLL(str(builtins))
            return ctypes.CDLL(str(name))
        except OSError:
            continue
    raise RuntimeError("no libnvrtc.so: it comes with PyTorch for CUDA and with the CUDA toolkit")


def compiled(path, options, what):
    """The code of a file: machine code or PTX (`what`: CUBIN or PTX), as a buffer."""
    nvrtc, program = load_nvrtc(), ctypes.c_void_p()
    source = path.read_bytes()
    options = [option.encode() for option in options]
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, path.name.encode(), 0, None, None)
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))

    def text(name):
        size = ctypes.c_size_t()
        getattr(nvrtc, f"nvrtcGet{name}Size")(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(max(size.value, 1))
        getattr(nvrtc, f"nvrtcGet{name}")(program, buffer)
        return buffer

    if code != 0:
        raise RuntimeError(f"{path.name}, {' '.join(map(bytes.decode, options))}: {text('ProgramLog').value.decode()}")
    return text(what)


class Driver:
    """The functions of the CUDA driver in a shared library."""

    def __init__(self, library):
        self.library = ctypes.CDLL(str(library))
        self.context = ctypes.c_void_p()

    def __call__(self, name, *args):
        code = getattr(self.library, name)(*args)
        if code != 0:
            text = ctypes.c_char_p()
            self.library.cuGetErrorString(code, ctypes.byref(text))
            raise RuntimeError(f"{name}: {(text.value or b'').decode()} ({code})")


@functools.cache
def gpu():
    torch.cuda.init()
    torch.cuda.synchronize()  # makes PyTorch's context the current one
    driver = Driver("libcuda.so.1")
    driver("cuCtxGetCurrent", ctypes.byref(driver.context))
    return driver


def emulate(library):
    """Kernels on tensors of the CPU run on the emulator in this file from now on."""
    global emulator
    emulator = Driver(library)
    device = ctypes.c_int()
    emulator("cuInit", 0)
    emulator("cuDeviceGet", ctypes.byref(device), 0)
    emulator("cuDevicePrimaryCtxRetain", ctypes.byref(emulator.context), device)
    emulator("cuCtxSetCurrent", emulator.context)


class Source:
    """The kernels of one file beside this one."""

    def __init__(self, name):
        self.path = HERE / name

    @functools.cache
    def module(self, real, cuda):
        options = ["--std=c++17", f"--define-macro=REAL={real}"]
        if cuda:
            major, minor = torch.cuda.get_device_capability()
            driver, code = gpu(), compiled(self.path, [*options, f"--gpu-architecture=sm_{major}{minor}"], "CUBIN")
        else:
            driver, code = emulator, compiled(self.path, [*options, "--gpu-architecture=compute_80"], "PTX")
        module = ctypes.c_void_p()
        driver("cuModuleLoadData", ctypes.byref(module), code)
        return driver, module

    @functools.cache
    def kernel(self, name, real, cuda):
        driver, module = self.module(real, cuda)
        function = ctypes.c_void_p()
        driver("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        return driver, function

    def __call__(self, name, blocks, threads, *args):
        """Launches a kernel on the current stream; does nothing where there are no blocks."""
        tensors = [a for a in args if isinstance(a, torch.Tensor)]
        assert all(t.is_contiguous() and t.device == tensors[0].device for t in tensors), name
        if blocks == 0:
            return
        real = "double" if any(t.dtype == torch.float64 for t in tensors) else "float"
        driver, function = self.kernel(name, real, tensors[0].is_cuda)
        if tensors[0].is_cuda:
            stream = torch.cuda.current_stream().cuda_stream
            launch(driver, function, blocks, threads, stream, args, torch.Tensor.data_ptr)
        else:
            emulated(driver, function, blocks, threads, args)


def launch(driver, function, blocks, threads, stream, args, address):
    convert = {int: ctypes.c_int, float: ctypes.c_float}
    values = [convert[type(a)](a) if type(a) in convert else ctypes.c_void_p(address(a)) for a in args]
    driver("cuCtxSetCurrent", driver.context)  # the backward pass runs on a thread of its own
    pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(v) for v in values))
    driver("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, ctypes.c_void_p(stream), pointers, None)


def emulated(driver, function, blocks, threads, args):
    """A launch between copies of all tensors to the emulator's memory and back."""
    copies = []

    def address(tensor):
        place, size = ctypes.c_uint64(), tensor.numel() * tensor.element_size()
        driver("cuMemAlloc_v2", ctypes.byref(place), ctypes.c_size_t(max(size, 16)))
        if size:
            driver("cuMemcpyHtoD_v2", place, ctypes.c_void_p(tensor.data_ptr()), ctypes.c_size_t(size))
        copies.append((place, tensor, size))
        return place.value

    launch(driver, function, blocks, threads, 0, args, address)
    for place, tensor, size in copies:
        if size:
            driver("cuMemcpyDtoH_v2", ctypes.c_void_p(tensor.data_ptr()), place, ctypes.c_size_t(size))
        driver("cuMemFree_v2", place)
