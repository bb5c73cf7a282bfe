//! Parallel tasks: results are folded in index order on the calling thread, which also asks whether to stop.

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
    /// When the check was last called from this thread. It outlives a run, since long work may be many short runs.
    static ASKED: Cell<Instant> = Cell::new(Instant::now());
}

/// Calls the check if it is time.
fn ask(check: Check) -> Result<()> {
    if ASKED.get().elapsed() >= INTERVAL {
        check()?;
        ASKED.set(Instant::now());
    }
    Ok(())
}

/// A check that a long computation calls about twenty times a second on the calling thread.
pub type Check<'a> = &'a mut dyn FnMut() -> std::result::Result<(), Interrupted>;

/// Does tasks 0 to `tasks` on `threads` threads and hands each result to `fold`, in order, on the calling thread.
///
/// Threads take the tasks in order, so only a few results wait for their turn. `threads` changes nothing of what
/// `fold` sees. When `check` says stop, tasks that have begun are finished and thrown away.
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
                    // A receiver that is gone was told to stop.
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
                Err(RecvTimeoutError::Disconnected) => return Ok(()), // a task panicked: the scope says so
            }
            if let Err(interrupted) = ask(&mut *check) {
                stop.store(true, Ordering::Relaxed);
                drop(receiver); // a worker that waits to send goes on, and sees it
                return Err(interrupted);
            }
        }
    })
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
