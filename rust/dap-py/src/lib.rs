//! The compiled module `dap._core`. A binding checks and borrows, detaches, calls `dap_core`, and moves the result out.
//!
//! The module is private: `dap` wraps each of its names, and `python/dap/_core.pyi` has their types.

mod arguments;
mod augment;
mod build_info;
mod calls;
mod clustering;
mod images;
mod index;
mod kernels;
mod tar;

use pyo3::prelude::*;

/// Reductions of kernels over arrays, clustering, images and files on the CPU; private to dap.
///
/// x and y are C-contiguous 2-D arrays of float32, float64, float16, or of uint16 with the bits of bfloat16; y None is
/// x. ``kernel`` is a list of (name, parameters), which stands for the sum of those kernels.
#[pymodule]
mod _core {
    #[pymodule_export]
    use crate::augment::{augment, resized_crops};
    #[pymodule_export]
    use crate::build_info::build_info;
    #[pymodule_export]
    use crate::clustering::{facility_location, farthest_points, herding, k_means, plus_plus};
    #[pymodule_export]
    use crate::images::{crop_square, decode_image, decode_square, encode_image, image_info};
    #[pymodule_export]
    use crate::index::{create_tensors, finish_tensors, hash_blocks, read_layout, verify_blocks, write_rows};
    #[pymodule_export]
    use crate::kernels::{gram, mean_distance, nearest, pair_sums, row_sums};
    #[pymodule_export]
    use crate::tar::{TarWriter, scan_tar};
}
