use std::num::NonZeroUsize;

use bytesize::ByteSize;

use super::Workers;

/// What work on many matrices may use.
///
/// A matrix in flight needs memory for its entries and the workspace of its decomposition, in
/// f64; the stored bytes are memory-mapped and do not count. With `jobs` matrices in flight, this
/// bounds the memory of measuring, factoring and merging, however large the model is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// Number of matrices in flight at once, never more than there are cores. The cores are shared
    /// evenly among them. `None` for one matrix per core.
    pub jobs: Option<NonZeroUsize>,
    /// Most bytes that the matrices in flight may need together: a matrix waits until it fits.
    /// `None` for no limit, except that a matrix that alone needs more than the machine has is
    /// refused.
    pub memory: Option<u64>,
}

/// A matrix that does not fit its [`Budget`], even alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "matrix `{name}` alone needs {need} of memory, more than the {allowed} {whose}",
    need = size(need, allowed),
    allowed = size(allowed, need),
    whose = whose(*of_machine)
)]
pub struct Oversized {
    /// The matrix.
    pub name: String,
    /// Estimated bytes that it needs while it is in flight.
    pub need: u64,
    /// Bytes allowed.
    pub allowed: u64,
    /// Whether that is the memory of the machine, and not a limit that was set.
    pub of_machine: bool,
}

fn whose(of_machine: bool) -> &'static str {
    if of_machine { "of this machine" } else { "allowed" }
}

/// A number of bytes, with as many digits as it takes to tell it from another.
fn size(bytes: &u64, other: &u64) -> String {
    let with = |bytes: &u64, digits: usize| format!("{:.digits$}", ByteSize(*bytes).display().si());
    // In EB, the last byte is the 18th digit after the point.
    let digits = (1..18).find(|digits| with(bytes, *digits) != with(other, *digits));
    with(bytes, digits.unwrap_or(18))
}

impl Budget {
    /// Refuses the first matrix that would never fit.
    pub(crate) fn check<'a>(
        &self,
        needs: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> Result<(), Oversized> {
        let of_machine = self.memory.is_none();
        let Some(allowed) = self.memory.or_else(machine_memory) else { return Ok(()) };
        match needs.into_iter().find(|(_, need)| *need > allowed) {
            Some((name, need)) => Err(Oversized { name: name.into(), need, allowed, of_machine }),
            None => Ok(()),
        }
    }

    /// One worker for each matrix that may be in flight. Their shares of the cores are equal,
    /// because the last digit of a result may depend on the number of threads. Shares are rounded
    /// down, so that there are never more threads than cores.
    pub(crate) fn workers(&self) -> Workers {
        let cores = cores();
        let jobs = self.jobs.map_or(cores, |jobs| jobs.min(cores));
        Workers::with_share(jobs, (cores.get() / jobs).max(1))
    }
}

/// Bytes of memory of this machine or container; `None` if the system does not tell.
pub fn machine_memory() -> Option<u64> {
    let total = || {
        let text = std::fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    // `max` where the group has no limit.
    let group = || std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?.trim().parse().ok();
    [total(), group()].into_iter().flatten().min()
}

/// Cores that this process may use.
pub(crate) fn cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}
