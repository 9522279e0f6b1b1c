use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rayon::Yield;

/// How long is waited for threads that have other work. One that sleeps is there in half of that.
const PATIENCE: Duration = Duration::from_micros(200);

/// How long a thread looks for work in vain: more than there is between two products, and less than a processor
/// that other programs need takes to come back.
const IDLE: Duration = Duration::from_millis(1);

/// In the count of threads: no more are let in.
const CLOSED: usize = 1 << (usize::BITS - 1);

/// Computes on a thread of the rayon pool that this is called in, whose other threads look for work all the
/// while. They would sleep whenever there is none for a few microseconds, as between two products of a
/// token that is generated, and each product would wait until they are awake.
///
/// They help with whatever is in the pool, and sleep again where that takes long to come, as on a processor
/// that other programs use. A pool of one thread, and threads
/// that have other work, are left alone; nothing waits for them, as they may wait for the caller.
pub(crate) fn with_ready_threads<T: Send>(compute: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| {
        let others = rayon::current_num_threads() - 1;
        if others == 0 {
            return compute();
        }
        let team = Arc::new(Team::default());
        let caller = rayon::current_thread_index();
        let helpers = team.clone();
        // Outside the scope, which would not end before each thread has seen this.
        rayon::spawn_broadcast(move |context| {
            if Some(context.index()) != caller {
                helpers.help();
            }
        });
        // Only a thread that is there before there is any work may help: another one could come upon this
        // while it waits for a part of the work, which then would not go on.
        team.wait_for(others);
        let _end = Dismissed(&team);
        compute()
    })
}

#[derive(Default)]
struct Team {
    /// Threads that are there, and [`CLOSED`].
    there: AtomicUsize,
    is_done: AtomicBool,
}

impl Team {
    fn wait_for(&self, threads: usize) {
        let begun = Instant::now();
        while self.there.load(Ordering::Acquire) < threads && begun.elapsed() < PATIENCE {
            std::hint::spin_loop();
        }
        self.there.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Does what there is to do until the work is done, or nothing comes.
    fn help(&self) {
        let joins = |there: usize| (there & CLOSED == 0).then_some(there + 1);
        if self.there.fetch_update(Ordering::AcqRel, Ordering::Acquire, joins).is_err() {
            return;
        }
        let mut idle_since = Instant::now();
        while !self.is_done.load(Ordering::Acquire) && idle_since.elapsed() < IDLE {
            match rayon::yield_now() {
                Some(Yield::Executed) => idle_since = Instant::now(),
                _ => std::thread::yield_now(),
            }
        }
    }
}

/// Ends the work of the others, also where it panics.
struct Dismissed<'a>(&'a Team);

impl Drop for Dismissed<'_> {
    fn drop(&mut self) {
        self.0.is_done.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::mpsc::channel;

    use rayon::ThreadPoolBuilder;
    use rayon::prelude::*;

    use super::*;

    fn work() -> usize {
        (0..1000usize).into_par_iter().map(|i| i % 7).sum()
    }

    #[test]
    fn work_is_done_in_pools_of_any_size_again_and_again() {
        for threads in [1, 2, 5] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            for _ in 0..200 {
                let sum =
                    pool.install(|| with_ready_threads(|| (0..20).map(|_| work()).sum::<usize>()));
                assert_eq!(sum, 20 * work());
            }
        }
    }

    #[test]
    fn several_callers_share_a_pool() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(pool.install(|| with_ready_threads(work)), 2997);
                    }
                });
            }
        });
    }

    #[test]
    fn a_thread_that_waits_for_the_caller_is_not_waited_for() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let (here, begun) = channel();
        let (tell, told) = channel::<()>();
        let (report, reported) = channel();
        pool.spawn(move || {
            here.send(()).unwrap();
            report.send(told.recv_timeout(Duration::from_secs(10)).is_ok()).unwrap();
        });
        begun.recv().unwrap();
        assert_eq!(pool.install(|| with_ready_threads(work)), 2997);
        // After its patience, the other thread is gone.
        let _ = tell.send(());
        assert!(reported.recv().unwrap(), "the caller came back too late");
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = ThreadPoolBuilder::new().num_threads(2).build().unwrap();
        let panics = || pool.install(|| with_ready_threads(|| -> usize { panic!("on purpose") }));
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_eq!(pool.install(|| with_ready_threads(work)), 2997);
    }
}
