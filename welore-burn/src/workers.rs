//! Work spread over threads that each have their share of the cores.
//!
//! CPU backends run elementwise operations on one thread. Several pieces of work at once hide
//! that, as long as each thread has a rayon pool of its own: backends run on the pool they are
//! called in, and a shared one makes the threads wait for each other.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads that each have their share of the cores.
#[derive(Debug)]
pub(crate) struct Workers {
    /// One pool a worker; none where the caller does all the work.
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Starts so many workers. A single one is the caller itself, with all cores.
    pub fn new(count: NonZeroUsize) -> Self {
        let count = count.get();
        if count == 1 {
            return Self { pools: Vec::new() };
        }
        let share = rayon::current_num_threads().div_ceil(count);
        let build = |_| ThreadPoolBuilder::new().num_threads(share).build().ok();
        // Where no thread can be started, the caller still can do the work.
        Self { pools: (0..count).map_while(build).collect() }
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Does `work` on every index below `count`, handed out one by one. `done` sees the
    /// results as they come, in any order, and may end it early.
    pub fn spread<T: Send>(
        &self,
        count: usize,
        work: impl Fn(usize) -> T + Sync,
        mut done: impl FnMut(usize, T) -> ControlFlow<()>,
    ) {
        if self.pools.is_empty() {
            for index in 0..count {
                if done(index, work(index)).is_break() {
                    return;
                }
            }
            return;
        }
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let (sender, receiver) = channel();
            for pool in self.pools.iter().take(count) {
                let (sender, next, stop, work) = (sender.clone(), &next, &stop, &work);
                scope.spawn(move || {
                    pool.install(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            if index >= count {
                                return;
                            }
                            let result = work(index);
                            sender.send((index, result)).expect("the receiver outlives it");
                        }
                    });
                });
            }
            drop(sender);
            for (index, result) in receiver {
                if done(index, result).is_break() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_done_once_by_any_number_of_workers() {
        for count in [1, 2, 5] {
            let workers = Workers::new(NonZeroUsize::new(count).unwrap());
            let mut results = [0; 17];
            let note = |index, result: usize| {
                results[index] += result;
                ControlFlow::Continue(())
            };
            workers.spread(17, |index| index * index + 1, note);
            assert!(results.iter().enumerate().all(|(i, result)| *result == i * i + 1));
            workers.spread(0, |_| panic!("there is nothing to do"), |_, ()| unreachable!());
        }
    }

    #[test]
    fn work_can_be_ended_early() {
        let workers = Workers::new(NonZeroUsize::new(2).unwrap());
        let mut seen = 0;
        let note = |_, ()| {
            seen += 1;
            ControlFlow::Break(())
        };
        workers.spread(1000, |_| std::thread::sleep(std::time::Duration::from_millis(1)), note);
        assert!(seen < 100, "{seen}");
    }
}
