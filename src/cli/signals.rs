//! Ctrl-C and its kin: the first one asks for a stop at the next step, the second one stops at once. So does the first one
//! where there is no next step: while the program waits for its input.

use crate::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Exit status of a program that was interrupted.
const INTERRUPTED: i32 = 130;

fn flag() -> &'static Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Arc::default)
}

/// Set while there is nothing to finish.
fn waits() -> &'static Arc<AtomicBool> {
    static WAITS: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    WAITS.get_or_init(Arc::default)
}

/// Installs the handlers.
///
/// A file that grows past the limit of the process gets an error instead of ending the process, so that it is reported
/// and the unfinished output removed.
pub fn install() -> Result<()> {
    let fault = |e: std::io::Error| Error::argument("signal handlers", e.to_string());
    for signal in [SIGINT, SIGTERM] {
        // The order counts: the shutdown looks at the flag before this signal sets it.
        for stops in [flag(), waits()] {
            signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, stops.clone())
                .map_err(fault)?;
        }
        signal_hook::flag::register(signal, flag().clone()).map_err(fault)?;
    }
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default()).map_err(fault)?;
    Ok(())
}

/// Lets a stop end what is being written, too: for commands whose outputs are worth nothing until they are whole.
pub fn end_writing() {
    crate::io::give_up_on(flag().clone());
}

/// Runs `read`, which may wait for ever, such that a signal ends the program at once; `saved` says what was kept.
///
/// # Errors
/// [`Error::Interrupted`] after a signal that came before, and those of `read`.
pub fn waiting<T>(saved: &str, read: impl FnOnce() -> Result<T>) -> Result<T> {
    waits().store(true, Ordering::SeqCst);
    // A signal from before the line above has only set its flag.
    let outcome = check(saved).and_then(|()| read());
    waits().store(false, Ordering::SeqCst);
    outcome
}

/// True once the user asked for a stop.
pub fn is_interrupted() -> bool {
    flag().load(Ordering::Relaxed)
}

/// An error once the user asked for a stop; `saved` says what was kept.
pub fn check(saved: &str) -> Result<()> {
    if is_interrupted() {
        return Err(Error::Interrupted {
            saved: saved.to_string(),
        });
    }
    Ok(())
}
