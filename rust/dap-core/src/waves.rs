//! Parallel tasks in bounded waves: folded in index order, with the caller's check between waves.

use rayon::prelude::*;

use crate::error::{Interrupted, Result};
use crate::pool;

/// Work between two checks, per thread, in elementary float32 operations: about 0.05 s of the slowest SIMD level.
const COST_PER_WAVE: usize = 1 << 26;

/// Does tasks 0 to `tasks` on `threads` threads and hands each result to `fold`, in order, on the calling thread.
///
/// `cost` is the work of one task. Neither it nor `threads` changes what `fold` sees.
pub(crate) fn run<T: Send>(
    tasks: usize,
    cost: usize,
    threads: Option<usize>,
    check: &mut dyn FnMut() -> std::result::Result<(), Interrupted>,
    task: impl Fn(usize) -> T + Sync,
    mut fold: impl FnMut(usize, T),
) -> Result<()> {
    let pool = pool::get(threads)?;
    let wave = (COST_PER_WAVE.saturating_mul(pool.current_num_threads()) / cost.max(1)).max(1);
    let mut first = 0;
    while first < tasks {
        let last = first.saturating_add(wave).min(tasks);
        let done: Vec<T> = pool.install(|| (first..last).into_par_iter().map(&task).collect());
        for (index, result) in (first..last).zip(done) {
            fold(index, result);
        }
        first = last;
        if first < tasks {
            check()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn results_are_folded_in_order() {
        let mut seen = Vec::new();
        run(
            100,
            COST_PER_WAVE / 7,
            Some(3),
            &mut || Ok(()),
            |index| index * index,
            |index, square| {
                seen.push((index, square));
            },
        )
        .unwrap();
        assert_eq!(seen, (0..100).map(|index| (index, index * index)).collect::<Vec<_>>());
    }

    #[test]
    fn the_check_stops_the_work() {
        let mut left = 3;
        let mut check = || {
            left -= 1;
            if left == 0 { Err(Interrupted) } else { Ok(()) }
        };
        let mut folded = 0;
        let stopped = run(1000, COST_PER_WAVE, Some(1), &mut check, |_| (), |_, ()| folded += 1);
        assert_eq!((stopped, folded), (Err(Error::Interrupted(Interrupted)), 3));
    }
}
