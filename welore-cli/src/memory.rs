//! The allocator.
//!
//! Training allocates and frees large tensors from several threads at once. The system's allocator
//! returns their pages each time, and clearing them again takes a third of a step.

use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h, which the binding lacks.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// From now on keeps freed pages for the next step, instead of returning them to the system after
/// ten milliseconds.
pub fn keep_pages() {
    // SAFETY: sets a number in a table; -1 is documented as "never".
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) }
}
