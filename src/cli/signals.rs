//! Ctrl-C and its kin: the first one asks for a stop at the next step, the second one stops at once.

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

/// Installs the handlers.
///
/// A file that grows past the limit of the process gets an error instead of ending the process, so that it is reported
/// and the unfinished output removed.
pub fn install() -> Result<()> {
    let fault = |e: std::io::Error| Error::argument("signal handlers", e.to_string());
    for signal in [SIGINT, SIGTERM] {
        // The order counts: the shutdown looks at the flag before this signal sets it.
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED, flag().clone())
            .map_err(fault)?;
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
