//! What the emulator tells beyond what a driver does. See [`crate::driver`] for the list.

use super::*;

/// Writes the profile as JSON and gives its length without the final 0.
///
/// # Safety
/// `out` is null or `room` bytes may be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cairnEmulatorProfileJson(out: *mut u8, room: usize) -> usize {
    let text = state().machine.profile().to_json();
    // SAFETY: the caller's promise.
    unsafe { put_text(out, room, &text) }
}

/// Forgets all counts.
#[unsafe(no_mangle)]
pub extern "C" fn cairnEmulatorProfileReset() {
    state().machine.reset_profile();
}

/// Writes the last error in full and gives its length without the final 0; 0 if there was none.
///
/// # Safety
/// `out` is null or `room` bytes may be written there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cairnEmulatorLastError(out: *mut u8, room: usize) -> usize {
    let text = state().last_error.clone();
    // SAFETY: the caller's promise.
    unsafe { put_text(out, room, &text) }
}

/// Clears a failed context, and the last error.
#[unsafe(no_mangle)]
pub extern "C" fn cairnEmulatorReset() {
    let mut state = state();
    state.failed = SUCCESS;
    state.last_error.clear();
}

/// Permutes the order of blocks and warps of later launches; 0 is the natural order.
#[unsafe(no_mangle)]
pub extern "C" fn cairnEmulatorSetSeed(seed: u64) {
    state().machine.set_seed(seed);
}

/// Counts a range of device memory as never written.
#[unsafe(no_mangle)]
pub extern "C" fn cairnEmulatorForget(address: u64, bytes: usize) -> Code {
    let mut state = state();
    match state.machine.memory_mut().forget(address, bytes as u64) {
        Ok(()) => SUCCESS,
        Err(error) => state.fail(INVALID_VALUE, &error),
    }
}
