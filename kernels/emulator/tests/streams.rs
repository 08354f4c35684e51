//! Streams, events and pinned memory through the driver's functions: what is right runs, what is forgotten is found
//! whatever the timing.

mod support;

use cudarc::driver::result;
use cudarc::driver::sys::{self, CUresult};
use support::calls::*;

#[test]
fn an_event_orders_a_copy_before_a_kernel_and_the_kernel_before_a_readback() {
    let driver = driver();
    let (copies, compute) = (stream(), stream());
    let (x, y) = (memory(), memory());
    let (source, target) = (pinned(3.0), pinned(0.0));
    let (copied, computed) = (event(), event());
    upload(x, source, copies).unwrap();
    record(copied, copies).unwrap();
    wait(compute, copied).unwrap();
    driver.scale(x, 2.0, y, compute).unwrap();
    record(computed, compute).unwrap();
    wait(copies, computed).unwrap();
    download(target, y, copies).unwrap();
    assert_eq!(
        target[5], 0.0,
        "a download arrives when the host waits for it"
    );
    synchronize(copies).unwrap();
    assert_eq!(target[5], 6.0);
}

#[test]
fn a_kernel_that_does_not_wait_for_its_copy_is_caught() {
    let driver = driver();
    let (copies, compute) = (stream(), stream());
    let (x, y) = (memory(), memory());
    upload(x, pinned(3.0), copies).unwrap();
    assert!(driver.scale(x, 2.0, y, compute).is_err());
    for part in [
        "race between streams",
        "kernel scale",
        "reads",
        "an upload",
        "nothing orders",
    ] {
        assert!(said().contains(part), "`{part}` is not in: {}", said());
    }
}

#[test]
fn an_event_that_was_recorded_too_early_orders_nothing() {
    let driver = driver();
    let (copies, compute) = (stream(), stream());
    let (x, y) = (memory(), memory());
    let early = event();
    record(early, copies).unwrap();
    upload(x, pinned(3.0), copies).unwrap();
    wait(compute, early).unwrap();
    assert!(driver.scale(x, 2.0, y, compute).is_err());
}

#[test]
fn a_copy_over_what_a_kernel_still_reads_is_caught() {
    let driver = driver();
    let (copies, compute) = (stream(), stream());
    let (x, y) = (memory(), memory());
    upload(x, pinned(3.0), compute).unwrap();
    synchronize(compute).unwrap();
    driver.scale(x, 2.0, y, compute).unwrap();
    assert!(upload(x, pinned(4.0), copies).is_err());
    assert!(
        said().contains("kernel scale") && said().contains("read it"),
        "{}",
        said()
    );
}

#[test]
fn memory_of_one_stream_is_not_there_for_another_and_not_freed_under_it() {
    let driver = driver();
    let (first, second) = (stream(), stream());
    let y = memory();
    // SAFETY: plain stream-ordered allocations.
    let x = unsafe { result::malloc_async(first, BYTES) }.unwrap();
    assert!(upload(x, pinned(1.0), second).is_err());
    assert!(said().contains("its allocation"), "{}", said());
    drop(driver);

    let driver = self::driver();
    upload(x, pinned(1.0), first).unwrap();
    let copied = event();
    record(copied, first).unwrap();
    wait(second, copied).unwrap();
    driver.scale(x, 1.0, y, second).unwrap();
    // SAFETY: freed once.
    let freed = unsafe { result::free_async(x, first) };
    assert!(freed.is_err(), "the second stream still reads it");
    assert!(said().contains("is freed while kernel scale"), "{}", said());
}

#[test]
fn a_staging_buffer_that_is_reused_too_early_is_caught() {
    let _driver = driver();
    let (copies, x) = (stream(), memory());
    let staging = pinned(1.0);
    upload(x, staging, copies).unwrap();
    staging[7] = 2.0;
    assert!(upload(memory(), staging, copies).is_err());
    assert!(
        said().contains("the host changed pinned memory"),
        "{}",
        said()
    );
    drop(_driver);

    // Whoever notices only at the end notices, too.
    let _driver = driver();
    upload(x, staging, copies).unwrap();
    staging[7] = 3.0;
    assert!(synchronize(copies).is_err());
    drop(_driver);

    // With an event in between it is right.
    let _driver = driver();
    let copied = event();
    upload(x, staging, copies).unwrap();
    record(copied, copies).unwrap();
    // SAFETY: it is alive.
    status(unsafe { sys::cuEventSynchronize(copied) }).unwrap();
    staging[7] = 4.0;
    upload(x, staging, copies).unwrap();
    synchronize(copies).unwrap();
}

#[test]
fn pageable_sources_may_change_at_once_and_pageable_targets_are_filled_at_once() {
    let _driver = driver();
    let (copies, x) = (stream(), memory());
    let mut values = vec![1.0f32; COUNT];
    upload(x, &values, copies).unwrap();
    values.fill(2.0);
    let mut back = vec![0.0f32; COUNT];
    download(&mut back, x, copies).unwrap();
    assert_eq!(back[0], 1.0);
}

#[test]
fn pinned_memory_is_not_freed_under_a_copy() {
    let _driver = driver();
    let source = pinned(1.0);
    upload(memory(), source, stream()).unwrap();
    // SAFETY: freed once, and not used afterwards.
    assert!(unsafe { result::free_host(source.as_mut_ptr().cast()) }.is_err());
}

#[test]
fn who_asks_hears_not_yet_before_yes() {
    let _driver = driver();
    let (copies, copied) = (stream(), event());
    // SAFETY: both are alive.
    let asked = || unsafe { (sys::cuEventQuery(copied), sys::cuStreamQuery(copies)) };
    upload(memory(), pinned(1.0), copies).unwrap();
    record(copied, copies).unwrap();
    let not_yet = CUresult::CUDA_ERROR_NOT_READY;
    assert_eq!(asked(), (not_yet, not_yet));
    assert_eq!(asked(), (CUresult::CUDA_SUCCESS, CUresult::CUDA_SUCCESS));
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_only() {
    let driver = driver();
    let blocking = result::stream::create(result::stream::StreamKind::Default).unwrap();
    let (x, y) = (memory(), memory());
    upload(x, pinned(1.0), blocking).unwrap();
    driver.scale(x, 2.0, y, result::stream::null()).unwrap();
    driver.scale(x, 3.0, y, blocking).unwrap();
    assert!(driver.scale(x, 4.0, y, stream()).is_err());
}
