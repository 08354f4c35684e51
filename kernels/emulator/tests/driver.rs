//! The calls a GPU would take: `cudarc` loads the emulator as the CUDA driver and runs kernels on it.

mod support;

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use std::sync::{Arc, Mutex, OnceLock};

const SOURCE: &str = r#"
extern "C" __global__ void scale(const float* x, float factor, int count, float* y) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) y[i] = x[i] * factor;
}
extern "C" __global__ void outside(float* y) { y[threadIdx.x] = 1.0f; }
extern "C" __global__ void large(float* y) {
    extern __shared__ float room[];
    room[threadIdx.x] = threadIdx.x;
    __syncthreads();
    y[threadIdx.x] = room[blockDim.x - 1 - threadIdx.x];
}
"#;

/// One driver serves the process, so tests take turns.
fn device() -> (std::sync::MutexGuard<'static, ()>, Arc<CudaContext>) {
    static TURN: Mutex<()> = Mutex::new(());
    static LOADED: OnceLock<libloading::Library> = OnceLock::new();
    let turn = TURN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    LOADED.get_or_init(|| {
        // SAFETY: the emulator has no initialisers.
        unsafe { libloading::Library::new(support::emulator_library()) }.unwrap()
    });
    // SAFETY: asks whether the library can be loaded.
    let found = unsafe { cudarc::driver::sys::is_culib_present() };
    assert!(found, "the emulator is not found as libcuda.so.1");
    (turn, CudaContext::new(0).unwrap())
}

fn symbol<T: Copy>(name: &str) -> T {
    // SAFETY: the emulator is loaded under the driver's name; the types below are those it documents.
    let library = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
    // SAFETY: as above.
    *unsafe { library.get::<T>(name.as_bytes()) }.unwrap()
}

fn config(blocks: u32, threads: u32, shared: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (blocks, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes: shared,
    }
}

#[test]
fn a_kernel_runs_through_cudarc() {
    let (_turn, context) = device();
    assert_eq!(context.compute_capability().unwrap(), (8, 0));
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(support::compile(SOURCE, &[])))
        .unwrap();
    let kernel = module.load_function("scale").unwrap();
    let stream = context.new_stream().unwrap();
    let x: Vec<f32> = (0..1000).map(|i| i as f32).collect();
    let device_x = stream.clone_htod(&x).unwrap();
    let mut device_y = stream.alloc_zeros::<f32>(1000).unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&device_x)
            .arg(&2.5f32)
            .arg(&1000i32)
            .arg(&mut device_y)
            .launch(config(8, 128, 0))
            .unwrap();
    }
    let y = stream.clone_dtoh(&device_y).unwrap();
    assert!((0..1000).all(|i| y[i] == 2.5 * i as f32));

    let profile: unsafe extern "C" fn(*mut u8, usize) -> usize = symbol("cairnEmulatorProfileJson");
    let mut text = vec![0u8; 1 << 16];
    // SAFETY: the buffer has that room.
    let length = unsafe { profile(text.as_mut_ptr(), text.len()) };
    let json: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
    assert!(json["kernels"]["scale"]["launches"].as_u64().unwrap() >= 1);
}

#[test]
fn an_access_outside_is_an_error_that_says_where() {
    let (_turn, context) = device();
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(support::compile(SOURCE, &[])))
        .unwrap();
    let kernel = module.load_function("outside").unwrap();
    let stream = context.new_stream().unwrap();
    let mut y = stream.alloc_zeros::<f32>(31).unwrap();
    // SAFETY: the kernel writes one element too many, which is the point.
    let error = unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&mut y)
            .launch(config(1, 32, 0))
    }
    .unwrap_err();
    let text = format!("{error}");
    for part in [
        "outside",
        "thread (31,0,0)",
        "0 bytes past the end",
        "of 124 bytes",
    ] {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(stream.synchronize().is_err(), "the context has failed");
    let reset: unsafe extern "C" fn() = symbol("cairnEmulatorReset");
    // SAFETY: it takes nothing.
    unsafe { reset() };
    stream.synchronize().unwrap();
}

#[test]
fn shared_memory_is_limited_until_asked_for() {
    let (_turn, context) = device();
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(support::compile(SOURCE, &[])))
        .unwrap();
    let kernel = module.load_function("large").unwrap();
    let stream = context.new_stream().unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    // SAFETY: the arguments are the kernel's.
    let mut launch = |shared| unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&mut y)
            .launch(config(1, 64, shared))
            .map(|_| ())
    };
    assert!(launch(64 << 10).is_err());
    let attribute = cudarc::driver::sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    kernel.set_attribute(attribute, 64 << 10).unwrap();
    launch(64 << 10).unwrap();
    assert!(
        kernel.set_attribute(attribute, 164 << 10).is_err(),
        "more than an A100 has"
    );
    assert_eq!(stream.clone_dtoh(&y).unwrap()[0], 63.0);
}

#[test]
fn graphs_replay_what_was_captured() {
    let (_turn, context) = device();
    // SAFETY: everything here is on one stream.
    unsafe { context.disable_event_tracking() };
    let module = context
        .load_module(cudarc::nvrtc::Ptx::from_src(support::compile(SOURCE, &[])))
        .unwrap();
    let kernel = module.load_function("scale").unwrap();
    let stream = context.new_stream().unwrap();
    let mut x = stream.clone_htod(&vec![1.0f32; 64]).unwrap();
    let mut y = stream.alloc_zeros::<f32>(64).unwrap();
    stream
        .begin_capture(
            cudarc::driver::sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL,
        )
        .unwrap();
    // SAFETY: the arguments are the kernel's.
    unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&x)
            .arg(&3.0f32)
            .arg(&64i32)
            .arg(&mut y)
            .launch(config(1, 64, 0))
            .unwrap()
    };
    stream.memcpy_dtod(&y, &mut x).unwrap();
    let graph = stream
        .end_capture(cudarc::driver::sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .expect("a graph");
    assert_eq!(
        stream.clone_dtoh(&x).unwrap()[5],
        1.0,
        "a capture runs nothing"
    );
    for _ in 0..3 {
        graph.launch().unwrap();
    }
    assert_eq!(stream.clone_dtoh(&x).unwrap()[5], 27.0);
}

#[test]
fn pinned_memory_and_events_work() {
    let (_turn, context) = device();
    let stream = context.new_stream().unwrap();
    // SAFETY: it is filled before it is read.
    let mut pinned = unsafe { context.alloc_pinned::<f32>(16) }.unwrap();
    pinned.as_mut_slice().unwrap().fill(2.0);
    let flags = cudarc::driver::sys::CUevent_flags_enum::CU_EVENT_DEFAULT;
    let start = stream.record_event(Some(flags)).unwrap();
    let device = stream.clone_htod(&pinned).unwrap();
    let end = stream.record_event(Some(flags)).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), vec![2.0; 16]);
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    let (unused, total) = context.mem_get_info().unwrap();
    assert!(unused > 0 && unused <= total);
}

#[test]
fn compiled_code_is_refused() {
    let (_turn, context) = device();
    let error = context
        .load_module(cudarc::nvrtc::Ptx::from_binary(
            b"\x7fELF\x02\x01\x01\0".to_vec(),
        ))
        .unwrap_err();
    assert!(format!("{error}").contains("PTX only"), "{error}");
}

#[test]
fn an_unknown_instruction_is_refused_by_name() {
    let (_turn, context) = device();
    let source = |text: &str| {
        format!(
            "extern \"C\" __global__ void refused(unsigned* y) {{ unsigned t = y[0], u = y[1]; asm volatile(\"{text}); y[0] = t; }}"
        )
    };
    for (text, named) in [
        (r#"mov.u32 %0, %%clock;" : "=r"(t) : "r"(u)"#, "mov.u32"),
        (
            r#"mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16 {%0,%1}, {%0,%1}, {%0}, {%0,%1};" : "+r"(t), "+r"(u)"#,
            "mma.sync.aligned.m16n8k8.row.col.f16.f16.f16.f16",
        ),
        (
            r#"mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0,%1}, {%0}, {%0}, {%0,%1};" : "+r"(t), "+r"(u)"#,
            "mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32",
        ),
    ] {
        let ptx = cudarc::nvrtc::Ptx::from_src(support::compile(&source(text), &[]));
        let error = context.load_module(ptx).map(|_| ()).unwrap_err();
        assert!(format!("{error}").contains(named), "{error}");
    }
}
