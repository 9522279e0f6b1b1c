//! Work spread over threads that each have their share of the cores.
//!
//! CPU backends run elementwise operations on one thread. Several pieces of work at once make up
//! for that, as long as each thread has its own rayon pool: backends run on the pool that they
//! are called in, and a shared pool makes the threads wait for each other.
//!
//! A [`Budget`] limits how many matrices are worked on at once, and the memory they use.

mod budget;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

pub(crate) use budget::cores;
pub use budget::{Budget, Oversized, machine_memory};

/// Threads that each have their share of the cores.
#[derive(Debug)]
pub(crate) struct Workers {
    /// One pool per worker; empty if the caller does all the work.
    pools: Vec<ThreadPool>,
}

impl Workers {
    /// Starts `count` workers. A single one is the caller itself, with all cores.
    pub fn new(count: NonZeroUsize) -> Self {
        Self::with_share(count, rayon::current_num_threads().div_ceil(count.get()))
    }

    /// The same with `share` threads each.
    fn with_share(count: NonZeroUsize, share: usize) -> Self {
        let count = count.get();
        if count == 1 {
            return Self { pools: Vec::new() };
        }
        let build = |_| ThreadPoolBuilder::new().num_threads(share).build().ok();
        // If no thread can be started, the caller can still do the work.
        Self { pools: (0..count).map_while(build).collect() }
    }

    /// Number of workers.
    pub fn count(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Runs `work` for every index below `count`, handed out one by one. `done` receives the
    /// results as they arrive, in any order, and may end the work early. So does a panic, which
    /// this function continues.
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
            let mut threads = Vec::new();
            for pool in self.pools.iter().take(count) {
                let (sender, next, stop, work) = (sender.clone(), &next, &stop, &work);
                threads.push(scope.spawn(move || {
                    let _alarm = OnPanic(|| stop.store(true, Ordering::Relaxed));
                    pool.install(|| {
                        while !stop.load(Ordering::Relaxed) {
                            let index = next.fetch_add(1, Ordering::Relaxed);
                            if index >= count {
                                return;
                            }
                            let result = work(index);
                            // The receiver is gone if `done` panicked.
                            if sender.send((index, result)).is_err() {
                                return;
                            }
                        }
                    });
                }));
            }
            drop(sender);
            let _alarm = OnPanic(|| stop.store(true, Ordering::Relaxed));
            for (index, result) in receiver {
                if done(index, result).is_break() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
            for thread in threads {
                thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            }
        });
    }

    /// The same for work whose pieces need memory: `needs` gives the bytes of each, which count
    /// until `done` has returned. A piece that needs more than `memory` waits until nothing else is
    /// in flight.
    pub fn spread_within<T: Send>(
        &self,
        memory: Option<u64>,
        needs: &[u64],
        work: impl Fn(usize) -> T + Sync,
        mut done: impl FnMut(usize, T) -> ControlFlow<()>,
    ) {
        let gate = Gate { memory, used: Mutex::new(0), freed: Condvar::new() };
        let stop = AtomicBool::new(false);
        self.spread(
            needs.len(),
            |index| {
                let permit = gate.enter(needs[index]);
                // The work may have ended while this piece waited.
                let result = (!stop.load(Ordering::Relaxed)).then(|| work(index));
                (result, permit)
            },
            |index, (result, _permit)| {
                let flow = result.map_or(ControlFlow::Break(()), |result| done(index, result));
                if flow.is_break() {
                    stop.store(true, Ordering::Relaxed);
                }
                flow
            },
        );
    }
}

impl Workers {
    /// [`spread`](Workers::spread) for work that may fail. The first error ends it; pieces in
    /// flight are still finished.
    ///
    /// # Errors
    ///
    /// The first error of `work` or `done`.
    pub fn try_spread<T: Send, E: Send>(
        &self,
        count: usize,
        work: impl Fn(usize) -> Result<T, E> + Sync,
        mut done: impl FnMut(usize, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        self.spread(count, work, |index, result| {
            note(&mut outcome, result.and_then(|result| done(index, result)))
        });
        outcome
    }

    /// [`spread_within`](Workers::spread_within) for work that may fail.
    ///
    /// # Errors
    ///
    /// As [`try_spread`](Workers::try_spread).
    pub fn try_spread_within<T: Send, E: Send>(
        &self,
        memory: Option<u64>,
        needs: &[u64],
        work: impl Fn(usize) -> Result<T, E> + Sync,
        mut done: impl FnMut(usize, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        self.spread_within(memory, needs, work, |index, result| {
            note(&mut outcome, result.and_then(|result| done(index, result)))
        });
        outcome
    }

    /// [`spread`](Workers::spread) with `done` called in the order of the indices, so that sums do
    /// not depend on which thread finishes first. There are never more results than workers: a
    /// worker that is far ahead waits.
    pub fn spread_in_order<T: Send>(
        &self,
        count: usize,
        work: impl Fn(usize) -> T + Sync,
        mut done: impl FnMut(usize, T),
    ) {
        let Ok(()) = self.try_spread_in_order(count, work, |index, result| {
            done(index, result);
            Ok::<(), Infallible>(())
        });
    }

    /// The same, ended by the first error of `done`. Pieces in flight are still finished.
    ///
    /// # Errors
    ///
    /// That error.
    pub fn try_spread_in_order<T: Send, E>(
        &self,
        count: usize,
        work: impl Fn(usize) -> T + Sync,
        mut done: impl FnMut(usize, T) -> Result<(), E>,
    ) -> Result<(), E> {
        let turns = Turns { ahead: self.count(), ..Turns::default() };
        let (mut waiting, mut outcome) = (BTreeMap::new(), Ok(()));
        self.spread(
            count,
            |index| {
                let _alarm = OnPanic(|| turns.end());
                turns.wait(index).then(|| work(index))
            },
            |index, result| {
                let _alarm = OnPanic(|| turns.end());
                let Some(result) = result.filter(|_| outcome.is_ok()) else {
                    return ControlFlow::Break(());
                };
                waiting.insert(index, result);
                while let Some(result) = waiting.remove(&turns.next()) {
                    outcome = done(turns.next(), result);
                    if outcome.is_err() {
                        turns.end();
                        return ControlFlow::Break(());
                    }
                    turns.advance();
                }
                ControlFlow::Continue(())
            },
        );
        outcome
    }

    /// The results of `work` for every index below `count`, in order.
    pub fn map<T: Send>(&self, count: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
        let mut results = Vec::with_capacity(count);
        self.spread_in_order(count, work, |_, result| results.push(result));
        results
    }
}

/// Keeps the first error, and returns whether to continue.
fn note<E>(outcome: &mut Result<(), E>, result: Result<(), E>) -> ControlFlow<()> {
    if outcome.is_ok() {
        *outcome = result;
    }
    match outcome {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// Does something if the thread panics while the value lives.
struct OnPanic<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// Keeps work from getting far ahead of what is done in order.
#[derive(Default)]
struct Turns {
    /// The index whose turn it is, and whether the work has ended.
    now: Mutex<(usize, bool)>,
    moved: Condvar,
    /// How many indices from the current one on may be in work or waiting.
    ahead: usize,
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, (usize, bool)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> usize {
        self.lock().0
    }

    fn advance(&self) {
        self.lock().0 += 1;
        self.moved.notify_all();
    }

    fn end(&self) {
        self.lock().1 = true;
        self.moved.notify_all();
    }

    /// Waits until an index may begin; false if the work has ended.
    fn wait(&self, index: usize) -> bool {
        let early = |(next, ended): &mut (usize, bool)| index - *next >= self.ahead && !*ended;
        let now = self.moved.wait_while(self.lock(), early);
        !now.unwrap_or_else(PoisonError::into_inner).1
    }
}

/// Admits pieces of work while their memory fits.
struct Gate {
    memory: Option<u64>,
    used: Mutex<u64>,
    freed: Condvar,
}

impl Gate {
    fn enter(&self, need: u64) -> Permit<'_> {
        let Some(memory) = self.memory else { return Permit { gate: self, need: 0 } };
        let need = need.min(memory);
        let full = |used: &mut u64| used.saturating_add(need) > memory;
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut used = self.freed.wait_while(used, full).unwrap_or_else(PoisonError::into_inner);
        *used += need;
        Permit { gate: self, need }
    }
}

/// Memory reserved for one piece of work, given back on drop.
struct Permit<'a> {
    gate: &'a Gate,
    need: u64,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        *self.gate.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.need;
        self.gate.freed.notify_all();
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

    #[test]
    fn work_in_order_is_ended_by_an_error() {
        for count in [1, 3] {
            let workers = Workers::new(NonZeroUsize::new(count).unwrap());
            let (begun, mut seen) = (AtomicUsize::new(0), Vec::new());
            let outcome = workers.try_spread_in_order(
                1000,
                |index| begun.fetch_max(index + 1, Ordering::SeqCst),
                |index, _| {
                    seen.push(index);
                    if index == 4 { Err("stopped") } else { Ok(()) }
                },
            );
            assert_eq!((outcome, seen), (Err("stopped"), vec![0, 1, 2, 3, 4]));
            let begun = begun.into_inner();
            assert!(begun < 10, "{begun}");
        }
    }

    #[test]
    fn panic_of_a_worker_ends_the_work_of_the_others() {
        let workers = Workers::new(NonZeroUsize::new(3).unwrap());
        let (begun, short) = (AtomicUsize::new(0), std::time::Duration::from_millis(1));
        let work = |index: usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(short);
            assert_ne!(index, 4, "a worker panics on purpose");
        };
        let run = |spread: &dyn Fn()| {
            begun.store(0, Ordering::SeqCst);
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(spread)).unwrap_err();
            let words = panic.downcast::<String>().unwrap();
            assert!(words.contains("panics on purpose"), "{words}");
            let begun = begun.load(Ordering::SeqCst);
            // The others go on while the panic is printed.
            assert!(begun < 5000, "{begun}");
        };
        run(&|| workers.spread(10_000, work, |_, ()| ControlFlow::Continue(())));
        run(&|| workers.spread_in_order(10_000, work, |_, ()| {}));
        let done = |index, ()| assert_ne!(index, 2, "the receiver panics on purpose");
        run(&|| workers.spread_in_order(10_000, |index| work(index % 4), done));
        run(&|| {
            workers.spread_within(Some(3), &[2; 10_000], work, |_, ()| ControlFlow::Continue(()))
        });
    }

    #[test]
    fn results_that_wait_for_their_turn_are_never_more_than_workers() {
        let workers = Workers::new(NonZeroUsize::new(4).unwrap());
        let (alive, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let mut order = Vec::new();
        let work = |index: usize| {
            most.fetch_max(alive.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            // Every seventh piece is slow, and all others finish before it.
            std::thread::sleep(std::time::Duration::from_millis(if index.is_multiple_of(7) {
                20
            } else {
                0
            }));
        };
        workers.spread_in_order(40, work, |index, ()| {
            alive.fetch_sub(1, Ordering::SeqCst);
            order.push(index);
        });
        assert_eq!(order, (0..40).collect::<Vec<_>>());
        let most = most.into_inner();
        assert!(most <= 4, "{most}");
    }

    #[test]
    fn work_in_flight_never_needs_more_than_the_memory_there_is() {
        let workers = Workers::new(NonZeroUsize::new(4).unwrap());
        let (in_flight, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let needs = [3, 1, 2, 7, 1, 1, 5, 2, 3, 20];
        let mut seen = 0;
        workers.spread_within(
            Some(7),
            &needs,
            |index| {
                let need = needs[index].min(7) as usize;
                let now = in_flight.fetch_add(need, Ordering::SeqCst) + need;
                most.fetch_max(now, Ordering::SeqCst);
                std::thread::sleep(std::time::Duration::from_millis(2));
                in_flight.fetch_sub(need, Ordering::SeqCst);
            },
            |_, ()| {
                seen += 1;
                ControlFlow::Continue(())
            },
        );
        assert_eq!(seen, needs.len());
        assert!(most.into_inner() <= 7);
    }

    #[test]
    fn matrix_that_never_fits_is_named() {
        let budget = Budget { memory: Some(1_000_000), ..Budget::default() };
        assert_eq!(budget.check([("a", 1_000_000)]), Ok(()));
        let error = budget.check([("a", 1_000_400)]).unwrap_err().to_string();
        assert!(error.contains("1.0004 MB") && error.contains("1.0000 MB"), "{error}");
        let error = budget.check([("a", 10), ("b", 2_500_000)]).unwrap_err().to_string();
        assert!(error.contains("`b`") && error.contains("2.5 MB"), "{error}");
    }

    #[test]
    fn matrix_that_this_machine_never_holds_is_named_without_a_limit() {
        let checked = Budget::default().check([("a", 1 << 20), ("b", u64::MAX)]);
        match machine_memory() {
            Some(memory) => {
                let error = checked.unwrap_err();
                assert_eq!((error.name.as_str(), error.allowed), ("b", memory));
                assert!(error.to_string().ends_with(" of this machine"), "{error}");
            }
            None => assert_eq!(checked, Ok(())),
        }
        assert_eq!(machine_memory().is_some(), cfg!(target_os = "linux"));
    }

    #[test]
    fn jobs_never_use_more_threads_than_there_are_cores() {
        for jobs in [1, 2, 3, 1000] {
            let budget = Budget { jobs: NonZeroUsize::new(jobs), memory: None };
            let workers = budget.workers();
            let threads: usize = workers.pools.iter().map(ThreadPool::current_num_threads).sum();
            assert!(workers.count() <= jobs && threads <= cores().get());
        }
    }
}
