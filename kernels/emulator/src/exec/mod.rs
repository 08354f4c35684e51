//! Runs kernels: a warp executes one instruction in all its lanes at a time, as a GPU does, and every access is checked.
//!
//! | module | what it holds |
//! |---|---|
//! | `launch` | blocks in their order, on one thread or several; what is found afterwards |
//! | `block` | the warps of a block, taking turns; reports |
//! | `warp` | registers, and the groups of lanes that are at the same instruction |
//! | `turn` | which lanes run next, and until when |
//! | `step`, `calculate` | the instructions |
//! | `access`, `atomic`, `local` | loads, stores, atomics |
//! | `checked` | every check of them |
//! | `copies` | asynchronous copies until they are awaited |
//! | `barrier` | barriers of the block |
//! | `collective` | shuffles, votes, matches |
//! | `tensor` | matrix loads and products |
//! | `clock`, `stamp`, `shadow` | what is ordered before what; race detection |
//! | `traffic` | sectors and bank conflicts |

mod access;
mod atomic;
mod barrier;
mod block;
mod calculate;
mod checked;
mod clock;
mod collective;
mod copies;
mod launch;
mod local;
mod shadow;
mod stamp;
mod step;
mod tensor;
mod traffic;
mod turn;
mod warp;

pub use launch::{Launch, Outcome, Touched, Workers, run};
pub use traffic::Count;

/// Generic addresses from here are shared memory.
pub const SHARED_WINDOW: u64 = 1 << 60;
/// Generic addresses from here are local memory.
pub const LOCAL_WINDOW: u64 = 1 << 61;

/// The lanes of a mask, lowest first.
fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}
