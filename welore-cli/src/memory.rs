//! The allocator.
//!
//! Training allocates and frees large tensors from several threads at once. The system's
//! allocator gives their pages back each time, and clearing them anew costs a third of a step.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the binding does not name.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Keeps freed pages for the next step from here on, instead of giving them back to the system
/// after ten milliseconds.
pub fn keep_pages() {
    // SAFETY: sets a number in a table; -1 is documented as "never".
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
