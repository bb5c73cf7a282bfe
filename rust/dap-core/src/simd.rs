//! Run-time choice of the instruction set, so that one wheel serves every CPU.
//!
//! The same source is compiled once per level and LLVM vectorises its fixed-lane loops. Rust fuses no multiply and add,
//! so every level gives the same bits; a test holds the levels of the machine to that.

/// A SIMD level that this CPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

// Private, so that a `Level` is only ever made after its features were detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// Work that is compiled once per level. `run` must be `#[inline(always)]`, or it keeps the baseline's instructions.
pub trait Vectorized {
    /// What the work gives.
    type Output;
    /// Does the work.
    fn run(self) -> Self::Output;
}

impl Level {
    /// The best level of this CPU.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self(Kind::Avx512);
            }
            if std::arch::is_x86_feature_detected!("avx2") {
                return Self(Kind::Avx2);
            }
        }
        Self(Kind::Portable)
    }

    /// Its name: "avx512", "avx2" or "portable" (the baseline of the target: SSE2, NEON).
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
        }
    }

    /// Does the work with the instructions of this level.
    #[inline]
    pub fn run<V: Vectorized>(self, work: V) -> V::Output {
        match self.0 {
            Kind::Portable => work.run(),
            // SAFETY: this `Level` exists, so the feature was detected.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { run_avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => unsafe { run_avx512(work) },
        }
    }

    #[cfg(test)]
    pub(crate) fn available() -> Vec<Self> {
        let all = [
            Self(Kind::Portable),
            #[cfg(target_arch = "x86_64")]
            Self(Kind::Avx2),
            #[cfg(target_arch = "x86_64")]
            Self(Kind::Avx512),
        ];
        let best = all.iter().position(|level| *level == Self::detect()).unwrap();
        all[..=best].to_vec()
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn run_avx2<V: Vectorized>(work: V) -> V::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<V: Vectorized>(work: V) -> V::Output {
    work.run()
}
