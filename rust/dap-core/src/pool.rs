//! One thread pool per process, rebuilt in a forked child.
//!
//! Threads do not survive `fork` (DataLoader workers fork): in the child, the pool of the parent would wait for ever.

use std::process;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::{Error, Result};

/// The most threads that may be asked for.
pub const MAX_THREADS: usize = 1024;

struct Cached {
    pid: u32,
    threads: Option<usize>,
    pool: Arc<ThreadPool>,
}

static CACHED: Mutex<Option<Cached>> = Mutex::new(None);

/// Returns the pool of this process with `threads` threads, or with the number that rayon chooses (`RAYON_NUM_THREADS`,
/// else one for each CPU).
///
/// The pool of the last call is kept; another number of threads builds a new one.
pub(crate) fn get(threads: Option<usize>) -> Result<Arc<ThreadPool>> {
    if let Some(threads) = threads.filter(|threads| !(1..=MAX_THREADS).contains(threads)) {
        return Err(Error::Threads { threads, max: MAX_THREADS });
    }
    let pid = process::id();
    let mut cached = CACHED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(cached) = cached.as_ref().filter(|cached| cached.pid == pid && cached.threads == threads) {
        return Ok(Arc::clone(&cached.pool));
    }
    let pool = ThreadPoolBuilder::new()
        .num_threads(threads.unwrap_or(0))
        .thread_name(|index| format!("dap-{index}"))
        .build()
        .map_err(|error| Error::Pool(error.to_string()))?;
    let pool = Arc::new(pool);
    let old = cached.replace(Cached { pid, threads, pool: Arc::clone(&pool) });
    if let Some(old) = old.filter(|old| old.pid != pid) {
        // Its threads exist in the parent only: dropping the pool would wait for them for ever.
        std::mem::forget(old);
    }
    Ok(pool)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_of_threads_is_obeyed_and_checked() {
        assert_eq!(get(Some(3)).unwrap().current_num_threads(), 3);
        assert_eq!(get(Some(0)).unwrap_err(), Error::Threads { threads: 0, max: MAX_THREADS });
        assert!(get(Some(MAX_THREADS + 1)).is_err());
    }
}
