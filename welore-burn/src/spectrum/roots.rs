use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use crate::calibrate::CalibrationError;
use crate::linalg::Root;
use crate::modules::MatrixName;

/// Computed roots of second moments. Matrices with the same inputs share one, and factoring finds
/// the roots that measuring used.
///
/// The first roots are kept until they fill their share of memory. Later ones live as long as they
/// are in use, and the last few a little longer: matrices that share inputs follow one another.
#[derive(Debug)]
pub(super) struct Roots {
    /// Maximum number of bytes that are kept.
    most: u64,
    state: Mutex<State>,
}

/// Number of bytes of roots that are kept by default.
const KEPT: u64 = 64 << 20;

/// Number of recent roots that are kept after use as well.
const RECENT: usize = 2;

#[derive(Debug, Default)]
struct State {
    known: HashMap<Key, Known>,
    kept: Vec<Arc<Root>>,
    bytes: u64,
    recent: VecDeque<Arc<Root>>,
}

/// A root that is being computed or is in use.
#[derive(Debug, Default)]
struct Known {
    cell: Weak<Cell>,
    root: Weak<Root>,
}

/// One computation. Other callers wait until it is finished.
type Cell = OnceLock<Result<Arc<Root>, Arc<CalibrationError>>>;

/// Which second moment a root belongs to, by the name under which it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Inputs(MatrixName),
    Outputs(MatrixName),
    Rows(MatrixName),
}

impl Default for Roots {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl Roots {
    /// Keeps at most this many bytes of roots that are not in use.
    pub fn keeping(most: u64) -> Self {
        Self { most, state: Mutex::default() }
    }

    /// The root with this key, computed if necessary.
    pub fn get(
        &self,
        key: Key,
        compute: impl FnOnce() -> Result<Root, CalibrationError>,
    ) -> Result<Arc<Root>, Arc<CalibrationError>> {
        let cell = match self.find(&key) {
            Ok(root) => return Ok(root),
            Err(cell) => cell,
        };
        let mut new = false;
        let root = cell.get_or_init(|| {
            new = true;
            compute().map(Arc::new).map_err(Arc::new)
        });
        if let (Ok(root), true) = (root, new) {
            self.keep(key, root);
        }
        root.clone()
    }

    /// The root, or the cell in which it is computed.
    fn find(&self, key: &Key) -> Result<Arc<Root>, Arc<Cell>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let known = state.known.entry(key.clone()).or_default();
        if let Some(root) = known.root.upgrade() {
            return Ok(root);
        }
        if let Some(cell) = known.cell.upgrade() {
            return Err(cell);
        }
        let cell = Arc::new(Cell::new());
        known.cell = Arc::downgrade(&cell);
        Err(cell)
    }

    fn keep(&self, key: Key, root: &Arc<Root>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.known.entry(key).or_default().root = Arc::downgrade(root);
        if state.bytes.saturating_add(root.bytes()) <= self.most {
            state.bytes += root.bytes();
            state.kept.push(root.clone());
            return;
        }
        state.recent.push_back(root.clone());
        if state.recent.len() > RECENT {
            state.recent.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linalg::SecondMoment;

    fn root(size: usize) -> Result<Root, CalibrationError> {
        let mut moment = SecondMoment::new(size);
        let eye = (0..size * size).map(|i| f32::from(u8::from(i % (size + 1) == 0)));
        moment.add(&eye.collect::<Vec<f32>>());
        Ok(moment.root(0.0).unwrap())
    }

    fn key(name: &str) -> Key {
        Key::Inputs(name.into())
    }

    #[test]
    fn what_is_kept_or_in_use_is_not_computed_again() {
        // Room for one root of 10 x 10, which is 800 bytes.
        let roots = Roots::keeping(1000);
        let first = roots.get(key("a"), || root(10)).unwrap();
        let again = roots.get(key("a"), || panic!("it is known")).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        drop((first, again));
        // Later ones are kept by their users, and the last two a little longer.
        let held = roots.get(key("b"), || root(10)).unwrap();
        for name in ["c", "d", "e"] {
            roots.get(key(name), || root(10)).unwrap();
        }
        roots.get(key("a"), || panic!("the first one is kept")).unwrap();
        roots.get(key("b"), || panic!("somebody has it")).unwrap();
        roots.get(key("e"), || panic!("it was used just now")).unwrap();
        let mut computed = false;
        let compute = || {
            computed = true;
            root(10)
        };
        roots.get(key("c"), compute).unwrap();
        assert!(computed, "nothing keeps it");
        drop(held);
    }

    #[test]
    fn several_threads_compute_a_root_once() {
        let roots = Roots::default();
        let count = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let compute = || {
                        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        root(10)
                    };
                    roots.get(key("a"), compute).unwrap();
                });
            }
        });
        assert_eq!(count.into_inner(), 1);
    }
}
