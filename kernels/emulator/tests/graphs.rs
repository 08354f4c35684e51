//! Captures and graphs through the driver's functions.

mod support;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};
use std::ffi::c_void;
use support::calls::*;

fn begin(stream: sys::CUstream) {
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: it is alive.
    unsafe { result::stream::begin_capture(stream, mode) }.unwrap();
}

fn end(stream: sys::CUstream) -> Result<sys::CUgraph, CUresult> {
    // SAFETY: it is alive.
    unsafe { result::stream::end_capture(stream) }.map_err(|e| e.0)
}

/// Makes a graph executable.
fn executable(graph: sys::CUgraph) -> sys::CUgraphExec {
    // SAFETY: the graph is alive.
    unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) }.unwrap()
}

fn replay(executable: sys::CUgraphExec, stream: sys::CUstream) -> Status {
    // SAFETY: both are alive.
    status(unsafe { sys::cuGraphLaunch(executable, stream) })
}

fn read(from: u64, stream: sys::CUstream) -> f32 {
    let mut values = vec![0.0; COUNT];
    download(&mut values, from, stream).unwrap();
    values[5]
}

#[test]
fn captures_carry_the_order_of_events() {
    let driver = driver();
    let (main, side) = (stream(), stream());
    let [x, y, z] = [memory(), memory(), memory()];
    let (forked, joined, source) = (event(), event(), pinned(3.0));
    let capture = |waits: bool| {
        begin(main);
        upload(x, source, main).unwrap();
        if waits {
            record(forked, main).unwrap();
        }
        driver.scale(x, 2.0, y, main).unwrap();
        if !waits {
            record(forked, main).unwrap();
        }
        wait(side, forked).unwrap();
        driver.scale(x, 5.0, z, side).unwrap();
        record(joined, side).unwrap();
        wait(main, joined).unwrap();
        driver
            .scale(z, 1.0, if waits { z } else { y }, main)
            .unwrap();
        executable(end(main).unwrap())
    };
    let right = capture(true);
    replay(right, main).unwrap();
    assert_eq!((read(y, main), read(z, main)), (6.0, 15.0));
    replay(right, main).unwrap();
    replay(capture(false), main).unwrap();
    assert_eq!(read(y, main), 15.0);
    // Another stream that does not wait for the graph.
    replay(right, main).unwrap();
    assert!(driver.scale(z, 1.0, y, side).is_err());
}

#[test]
fn branches_of_a_graph_that_nothing_orders_race() {
    let driver = driver();
    let (main, side) = (stream(), stream());
    let [x, y] = [memory(), memory()];
    let (forked, joined, source) = (event(), event(), pinned(3.0));
    begin(main);
    record(forked, main).unwrap();
    wait(side, forked).unwrap();
    upload(x, source, main).unwrap();
    driver.scale(x, 5.0, y, side).unwrap();
    record(joined, side).unwrap();
    wait(main, joined).unwrap();
    let graph = executable(end(main).unwrap());
    assert!(replay(graph, main).is_err());
    assert!(said().contains("race between streams"), "{}", said());
}

/// What an allocation returns, of pinned or of device memory.
fn allocated(is_pinned: bool) -> Status {
    // SAFETY: allocations, which are kept.
    let allocated = unsafe {
        match is_pinned {
            true => result::malloc_host(4, 0).map(|_| ()),
            false => result::malloc_sync(4).map(|_| ()),
        }
    };
    allocated.map_err(|e| e.0)
}

#[test]
fn what_a_capture_forbids_has_the_drivers_codes() {
    let driver = driver();
    let (x, y) = (memory(), memory());
    let values = vec![1.0; COUNT];
    type Forbidden<'a> = &'a dyn Fn(sys::CUstream) -> Status;
    let inside = event();
    let forbidden: [(&str, Forbidden, CUresult); 8] = [
        (
            "synchronize",
            &synchronize,
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "pageable copy",
            &|s| upload(x, &values, s),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "allocation",
            &|_| allocated(false),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "pinned allocation",
            &|_| allocated(true),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "waiting for the device",
            &|_| result::ctx::synchronize().map_err(|e| e.0),
            CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        ),
        (
            "waiting for an event of the capture",
            &|s| {
                record(inside, s)?;
                // SAFETY: it is alive.
                status(unsafe { sys::cuEventSynchronize(inside) })
            },
            CUresult::CUDA_ERROR_CAPTURED_EVENT,
        ),
        (
            "an event from before",
            &|s| {
                let other = stream();
                let outside = event();
                record(outside, other)?;
                wait(s, outside)
            },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        ),
        (
            "another capture",
            &|s| {
                let other = stream();
                begin(other);
                record(inside, other)?;
                let merged = wait(s, inside);
                assert_eq!(
                    end(other),
                    Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
                );
                merged
            },
            CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE,
        ),
    ];
    for (what, call, code) in forbidden {
        let captured = stream();
        begin(captured);
        driver.scale(x, 2.0, y, captured).unwrap();
        assert_eq!(call(captured), Err(code), "{what}");
        assert!(
            driver.scale(x, 2.0, y, captured).is_err(),
            "{what}: the capture is spoilt"
        );
        let spoilt = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
        assert_eq!(end(captured), Err(spoilt), "{what}");
    }
}

#[test]
fn captures_end_where_they_began_with_all_branches_joined() {
    let driver = driver();
    let (main, side, forked) = (stream(), stream(), event());
    let [x, y] = [memory(), memory()];
    assert_eq!(end(main), Err(CUresult::CUDA_ERROR_ILLEGAL_STATE));
    begin(main);
    record(forked, main).unwrap();
    wait(side, forked).unwrap();
    driver.scale(x, 1.0, y, side).unwrap();
    assert_eq!(end(main), Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED));

    begin(main);
    record(forked, main).unwrap();
    wait(side, forked).unwrap();
    assert_eq!(
        end(side),
        Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED)
    );
    assert_eq!(
        end(main),
        Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    );

    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    begin(blocking);
    let legacy = driver.scale(x, 1.0, y, result::stream::null());
    assert_eq!(legacy, Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT));
    assert_eq!(
        end(blocking),
        Err(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
    );
}

/// A graph of one kernel that was built node by node: it, its node, and what to launch.
fn built(driver: &Driver, x: u64, factor: f32, y: u64) -> (sys::CUgraph, sys::CUgraphNode) {
    let mut graph = std::ptr::null_mut();
    let mut node = std::ptr::null_mut();
    // SAFETY: results are written where they belong; the parameters are the kernel's and are copied.
    unsafe {
        status(sys::cuGraphCreate(&mut graph, 0)).unwrap();
        with_params(driver, x, factor, y, |params| {
            status(sys::cuGraphAddKernelNode_v2(
                &mut node,
                graph,
                std::ptr::null(),
                0,
                params,
            ))
        })
        .unwrap();
    }
    (graph, node)
}

fn with_params<R>(
    driver: &Driver,
    mut x: u64,
    mut factor: f32,
    mut y: u64,
    call: impl FnOnce(&sys::CUDA_KERNEL_NODE_PARAMS) -> R,
) -> R {
    let mut params = [
        (&raw mut x).cast::<c_void>(),
        (&raw mut factor).cast(),
        (&raw mut y).cast(),
    ];
    call(&sys::CUDA_KERNEL_NODE_PARAMS {
        func: driver.scale,
        gridDimX: 1,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: COUNT as u32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        kernelParams: params.as_mut_ptr(),
        extra: std::ptr::null_mut(),
        kern: std::ptr::null_mut(),
        ctx: std::ptr::null_mut(),
    })
}

#[test]
fn a_replayed_graph_has_the_arguments_it_was_made_with_until_it_is_given_others() {
    let driver = driver();
    let main = stream();
    let (x, y) = (memory(), memory());
    upload(x, pinned(3.0), main).unwrap();
    let (graph, node) = built(&driver, x, 2.0, y);
    let replayed = executable(graph);
    replay(replayed, main).unwrap();
    assert_eq!(read(y, main), 6.0);
    // SAFETY: the parameters are the kernel's and are copied.
    let set = with_params(&driver, x, 7.0, y, |params| unsafe {
        status(sys::cuGraphExecKernelNodeSetParams_v2(
            replayed, node, params,
        ))
    });
    set.unwrap();
    replay(replayed, main).unwrap();
    assert_eq!(read(y, main), 21.0);
    // The graph itself keeps what it had.
    replay(executable(graph), main).unwrap();
    assert_eq!(read(y, main), 6.0);
}

#[test]
fn a_replayed_graph_with_an_address_that_was_freed_is_caught() {
    let driver = driver();
    let main = stream();
    let (x, y) = (memory(), memory());
    upload(x, pinned(3.0), main).unwrap();
    let (graph, _) = built(&driver, x, 2.0, y);
    let replayed = executable(graph);
    replay(replayed, main).unwrap();
    synchronize(main).unwrap();
    // SAFETY: freed once.
    unsafe { result::free_sync(x) }.unwrap();
    assert!(replay(replayed, main).is_err());
}

#[test]
fn nodes_of_a_graph_run_after_those_they_name() {
    let driver = driver();
    let main = stream();
    let (x, y) = (memory(), memory());
    let fill = |value: u32| sys::CUDA_MEMSET_NODE_PARAMS {
        dst: x,
        pitch: 0,
        value,
        elementSize: 4,
        width: COUNT,
        height: 1,
    };
    let mut graph = std::ptr::null_mut();
    let [mut first, mut second] = [std::ptr::null_mut(); 2];
    // SAFETY: results are written where they belong; parameters are copied.
    unsafe {
        let none = std::ptr::null();
        status(sys::cuGraphCreate(&mut graph, 0)).unwrap();
        let context = std::ptr::null_mut();
        let ones = fill(1.0f32.to_bits());
        status(sys::cuGraphAddMemsetNode(
            &mut first, graph, none, 0, &ones, context,
        ))
        .unwrap();
        let add = |node: &mut sys::CUgraphNode, after: &[sys::CUgraphNode]| {
            with_params(&driver, x, 4.0, y, |params| {
                let (after, count) = (after.as_ptr(), after.len());
                status(sys::cuGraphAddKernelNode_v2(
                    node, graph, after, count, params,
                ))
            })
        };
        add(&mut second, &[first]).unwrap();
        let ordered = executable(graph);
        replay(ordered, main).unwrap();
        assert_eq!(read(y, main), 4.0);
        let twos = fill(2.0f32.to_bits());
        status(sys::cuGraphExecMemsetNodeSetParams(
            ordered, first, &twos, context,
        ))
        .unwrap();
        replay(ordered, main).unwrap();
        assert_eq!(read(y, main), 8.0);
        // A second kernel that comes after nothing.
        add(&mut second, &[]).unwrap();
        assert!(replay(executable(graph), main).is_err());
    }
    assert!(said().contains("race between streams"), "{}", said());
}
