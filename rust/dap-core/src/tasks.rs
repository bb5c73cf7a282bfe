//! Parallel tasks: the calling thread folds their results in index order, and regularly checks whether to stop.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use crate::error::{Interrupted, Result};
use crate::pool;

/// How often the caller's check is called.
const INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// When this thread last called a check. It is kept between runs, because long work may be many short runs.
    static ASKED: Cell<Instant> = Cell::new(Instant::now());
}

/// Calls the check if [`INTERVAL`] has passed.
fn ask(check: Check) -> Result<()> {
    if ASKED.get().elapsed() >= INTERVAL {
        check()?;
        ASKED.set(Instant::now());
    }
    Ok(())
}

/// A check that a long computation calls about twenty times a second on the calling thread.
pub type Check<'a> = &'a mut dyn FnMut() -> std::result::Result<(), Interrupted>;

/// Runs tasks 0 to `tasks` on `threads` threads and passes each result to `fold`, in order, on the calling thread.
///
/// Threads take the tasks in order, so only a few results wait for their turn. `fold` gets the same results in the same
/// order for any number of threads. When `check` fails, the results of running tasks are dropped.
pub(crate) fn run<T: Send>(
    tasks: usize,
    threads: Option<usize>,
    check: Check,
    task: impl Fn(usize) -> T + Sync,
    mut fold: impl FnMut(usize, T),
) -> Result<()> {
    let pool = pool::get(threads)?;
    if tasks <= 1 {
        (0..tasks).for_each(|index| fold(index, task(index)));
        return ask(check);
    }
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let workers = pool.current_num_threads().min(tasks);
    let (sender, receiver) = sync_channel(4 * workers);
    pool.in_place_scope(|scope| {
        for _ in 0..workers {
            let (sender, next, stop, task) = (sender.clone(), &next, &stop, &task);
            scope.spawn(move |_| {
                while !stop.load(Ordering::Relaxed) {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    // The receiver is gone after a failed check.
                    if index >= tasks || sender.send((index, task(index))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        let (mut waiting, mut turn) = (BTreeMap::new(), 0);
        loop {
            match receiver.recv_timeout(INTERVAL) {
                Ok((index, result)) => {
                    waiting.insert(index, result);
                    while let Some(result) = waiting.remove(&turn) {
                        fold(turn, result);
                        turn += 1;
                    }
                    if turn == tasks {
                        return ask(check);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()), // a task panicked: the scope passes the panic on
            }
            if let Err(interrupted) = ask(&mut *check) {
                stop.store(true, Ordering::Relaxed);
                drop(receiver); // workers that wait to send wake up and see `stop`
                return Err(interrupted);
            }
        }
    })
}

/// [`run`] of tasks that can fail: returns the first error in task order; no result after it is folded.
pub(crate) fn try_run<T: Send>(
    tasks: usize,
    threads: Option<usize>,
    check: Check,
    task: impl Fn(usize) -> Result<T> + Sync,
    mut fold: impl FnMut(usize, T),
) -> Result<()> {
    let mut outcome = Ok(());
    run(tasks, threads, check, task, |index, result| match result {
        Ok(value) if outcome.is_ok() => fold(index, value),
        Err(error) if outcome.is_ok() => outcome = Err(error),
        _ => {}
    })?;
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_are_folded_in_order() {
        for threads in [1, 3] {
            let mut seen = Vec::new();
            let task = |index: usize| {
                std::thread::sleep(Duration::from_micros((index * 7919 % 13) as u64));
                index * index
            };
            run(100, Some(threads), &mut || Ok(()), task, |index, square| seen.push((index, square))).unwrap();
            assert_eq!(seen, (0..100).map(|index| (index, index * index)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_error_ends_the_folding() {
        let task = |index| if index == 7 || index == 9 { Err(Error::Memory(index)) } else { Ok(index) };
        let mut seen = Vec::new();
        let result = try_run(20, Some(2), &mut || Ok(()), task, |_, index| seen.push(index));
        assert_eq!((result, seen), (Err(Error::Memory(7)), (0..7).collect()));
    }

    #[test]
    fn the_check_stops_the_work() {
        let done = AtomicUsize::new(0);
        let task = |_| {
            std::thread::sleep(Duration::from_millis(1));
            done.fetch_add(1, Ordering::Relaxed);
        };
        let stopped = run(100_000, Some(2), &mut || Err(Interrupted), task, |_, ()| ());
        assert_eq!(stopped, Err(Error::Interrupted(Interrupted)));
        assert!(done.into_inner() < 10_000);
    }

    #[test]
    fn the_check_stops_many_short_runs() {
        for tasks in [1, 4] {
            let task = |_| std::thread::sleep(Duration::from_millis(1));
            let mut runs = (0..10_000).map(|_| run(tasks, Some(2), &mut || Err(Interrupted), task, |_, ()| ()));
            assert_eq!(runs.find(Result::is_err), Some(Err(Error::Interrupted(Interrupted))));
        }
    }

    #[test]
    #[should_panic(expected = "task 7")]
    fn a_panic_of_a_task_is_the_callers() {
        let task = |index| assert!(index != 7, "task {index}");
        let _ = run(50, Some(2), &mut || Ok(()), task, |_, ()| ());
    }
}
