"""The CUDA device by itself: memory, order of work, graphs, marks, the pinned ring, and errors in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from imp_runtime.cuda import _STAGING_BYTES, CudaDevice
from imp_runtime.device import DeviceError, Launch, detect_gpu, detect_target, open_device

# The driver compiles PTX itself, so these tests need no compiler. One thread a block.
PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.extern .shared .align 16 .b8 arena[];
.visible .entry add(.param .u64 from, .param .u64 to) {
  .reg .u64 %rd<6>; .reg .u32 %r<5>;
  mov.u32 %r1, %ctaid.x; mul.wide.u32 %rd1, %r1, 4;
  ld.param.u64 %rd2, [from]; ld.param.u64 %rd3, [to];
  add.u64 %rd4, %rd2, %rd1; add.u64 %rd5, %rd3, %rd1;
  ld.global.u32 %r2, [%rd4]; ld.global.u32 %r3, [%rd5]; add.u32 %r4, %r2, %r3; st.global.u32 [%rd5], %r4;
  ret;
}
.visible .entry sample(.param .u64 count, .param .u64 ring) {
  .reg .u64 %rd<8>; .reg .u32 %r<5>;
  ld.param.u64 %rd1, [count]; ld.param.u64 %rd2, [ring];
  ld.global.u32 %r1, [%rd1]; add.u32 %r2, %r1, 1; st.global.u32 [%rd1], %r2;
  and.b32 %r3, %r1, 1023; mul.wide.u32 %rd3, %r3, 8; add.u64 %rd4, %rd2, %rd3;
  cvt.u64.u32 %rd5, %r2; shl.b64 %rd6, %rd5, 32; or.b64 %rd7, %rd6, 7;
  st.release.sys.global.u64 [%rd4], %rd7;
  ret;
}
.visible .entry far(.param .u64 to) {
  .reg .u64 %rd<2>; .reg .u32 %r<3>;
  ld.param.u64 %rd1, [to]; mov.u32 %r1, 1234;
  st.shared.u32 [arena+200000], %r1; ld.shared.u32 %r2, [arena+200000]; st.global.u32 [%rd1], %r2;
  ret;
}
\0"""


@pytest.fixture
def device() -> Iterator[CudaDevice]:
    device = open_device(detect_target())
    assert isinstance(device, CudaDevice)
    yield device
    device.close()


def test_name_and_target(device: CudaDevice) -> None:
    assert device.name.startswith("NVIDIA")
    assert device.target == detect_target()
    assert device.memory_free() > 1 << 30


@pytest.mark.parametrize("nbytes", [1, 1000, _STAGING_BYTES, 3 * _STAGING_BYTES + 12345])
def test_what_is_uploaded_is_downloaded(device: CudaDevice, nbytes: int) -> None:
    data = np.random.default_rng(0).integers(0, 256, nbytes, np.uint8)
    address = device.alloc(nbytes + 100, "test")
    assert address % 256 == 0
    device.zero(address, nbytes + 100)
    device.upload(address, data, 50)
    got = device.download(address, nbytes + 100)
    np.testing.assert_array_equal(got[50:-50], data)
    assert not got[:50].any()
    assert not got[-50:].any()


def test_launches_and_uploads_keep_their_order(device: CudaDevice) -> None:
    module = device.load_code(PTX)
    n = 1000
    source, total = device.alloc(4 * n, "a"), device.alloc(4 * n, "b")
    launch = Launch("add", module.kernel("add", 0), (n, 1, 1), 1, 0, (source, total))
    replay = device.capture([launch, launch])
    device.zero(total, 4 * n)
    scratch = np.empty(n, np.uint32)
    for i in range(300):
        scratch[:] = i  # the last upload may not have been read yet
        device.upload(source, scratch)
        replay.launch()
    device.launch(launch)
    assert (device.download(total, 4 * n).view(np.uint32) == 2 * sum(range(300)) + 299).all()


def test_small_uploads_go_round_the_staging_buffers(device: CudaDevice) -> None:
    address = device.alloc(4096, "test")
    block = np.zeros(4096, np.uint8)
    for i in range(3 * _STAGING_BYTES // 4096):
        block[:] = i % 251
        device.upload(address, block)
    assert (device.download(address, 4096) == i % 251).all()


def test_the_ring_is_seen_without_a_synchronisation(device: CudaDevice) -> None:
    module = device.load_code(PTX)
    count = device.alloc(4, "count")
    device.zero(count, 4)
    address, view = device.host_ring(8 * 1024)
    ring = view.view(np.uint64)
    assert not ring.any()
    replay = device.capture([Launch("sample", module.kernel("sample", 0), (1, 1, 1), 1, 0, (count, address))])
    for i in range(3000):
        replay.launch()
        deadline = time.monotonic() + 10
        while int(ring[i % 1024]) != (i + 1) << 32 | 7:
            assert time.monotonic() < deadline
    assert not device.busy()


def test_much_shared_memory(device: CudaDevice) -> None:
    module = device.load_code(PTX)
    address = device.alloc(4, "test")
    kernel = module.kernel("far", 210_000)
    device.launch(Launch("far", kernel, (1, 1, 1), 1, 210_000, (address,)))
    assert device.download(address, 4).view(np.uint32)[0] == 1234


def test_marks(device: CudaDevice) -> None:
    address = device.alloc(1 << 30, "test")
    begin = device.mark()
    for _ in range(20):
        device.zero(address, 1 << 30)
    end = device.mark()
    device.wait(end)
    assert not device.busy()
    assert 0.5 < device.elapsed_ms(begin, end) < 1000


def test_any_thread_may_call(device: CudaDevice) -> None:
    address = device.alloc(16, "test")
    device.upload(address, b"0123456789abcdef")
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(device.download(address, 16).tobytes()))
    thread.start()
    thread.join()
    assert got == [b"0123456789abcdef"]


def test_blocks_that_the_gpu_cannot_hold_at_once(device: CudaDevice) -> None:
    """200,004 bytes of shared memory: one block fits on an SM."""
    kernel = device.load_code(PTX).kernel("far", 200_004)
    to = device.alloc(4, "a")
    many = Launch("far", kernel, (9999, 1, 1), 1, 200_004, (to,), resident=True)
    assert detect_gpu() == (device.name, device.room(many))
    with pytest.raises(DeviceError, match=r"kernel far has 9999 CTAs.* holds (\d+); compile .* --target \w+:\1"):
        device.launch(many)
    device.launch(Launch("far", kernel, (2, 1, 1), 1, 200_004, (to,), resident=True))
    assert device.download(to, 4).view(np.uint32) == 1234


def test_errors_in_words(device: CudaDevice) -> None:
    with pytest.raises(
        DeviceError, match=r"CUDA_ERROR_OUT_OF_MEMORY \([\d,]+ bytes asked for weights, [\d,]+ free on N"
    ):
        device.alloc(1 << 46, "weights")
    with pytest.raises(DeviceError, match=r"cuModuleLoadData failed with CUDA_ERROR_\w+: "):
        device.load_code(b"\x7fELF this is no code" * 100)
    module = device.load_code(PTX)
    with pytest.raises(DeviceError, match=r"CUDA_ERROR_NOT_FOUND: .*compile the model again"):
        module.kernel("nothing", 0)
    with pytest.raises(DeviceError, match=r"kernel add, grid \(1, 1, 1\), block 2000"):
        device.launch(Launch("add", module.kernel("add", 0), (1, 1, 1), 2000, 0, (0, 0)))
    assert device.memory_free() > 0, "none of these may break the context"
