//! Functions that run work with AVX-512 or AVX2 instructions; their callers have detected the features.

use std::marker::PhantomData;

use super::Vectorized;
use super::avx2::Avx2;
use super::avx512::Avx512;

macro_rules! entry {
    ($name:ident, $real:ty, $token:ident, $rows:literal, $features:literal) => {
        /// Does the work at this level.
        #[target_feature(enable = $features)]
        pub(super) fn $name<V: Vectorized<$real>>(work: V) -> V::Output {
            work.run::<_, $rows>($token::<$real>(PhantomData))
        }
    };
}

entry!(run_avx512_f32, f32, Avx512, 14, "avx512f");
entry!(run_avx512_f64, f64, Avx512, 14, "avx512f");
entry!(run_avx2_f32, f32, Avx2, 6, "avx2,fma");
entry!(run_avx2_f64, f64, Avx2, 6, "avx2,fma");
