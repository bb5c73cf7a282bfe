//! Resizes an image and crops the square at its centre, in the ways in which the training data of priors were made.

use super::plane::{Plane, View, deinterleave};
use super::resize::{Filter, halve, resize};
use crate::error::{Error, Result};

/// The most pixels of a resized image; a narrow strip would otherwise grow without bound.
const MAX_PIXELS: usize = 1 << 28;

/// How an image is resized; a square image of the wanted size keeps its pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crop {
    /// ADM's `center_crop_arr` (Dhariwal and Nichol, 2021): halved by boxes while the short side is at least twice the
    /// size, then bicubic.
    Adm,
    /// One bicubic resize with antialiasing.
    Bicubic,
    /// One Lanczos resize (three lobes) with antialiasing.
    Lanczos,
    /// One resize by box averages.
    Box,
}

impl Crop {
    /// Returns the crop of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "adm" => Some(Self::Adm),
            "bicubic" => Some(Self::Bicubic),
            "lanczos" => Some(Self::Lanczos),
            "box" => Some(Self::Box),
            _ => None,
        }
    }
}

/// Turns an image upright, resizes it, crops it at the centre, and writes it into `out`: `channels` planes, `size` × `size`.
pub fn square(view: View<'_>, crop: Crop, channels: usize, size: usize, out: &mut [u8]) -> Result<()> {
    view.check()?;
    let area = size.saturating_mul(size);
    if !matches!(channels, 1 | 3) || size == 0 || Some(out.len()) != area.checked_mul(channels) {
        return Err(Error::ImageShape { shape: [channels, size, size], expected: "out of (1 or 3, size, size)" });
    }
    if (view.width, view.height, view.channels, channels) == (size, size, 3, 3) && !view.turned() {
        deinterleave(view.pixels, out);
        return Ok(());
    }
    if view.channels == 3 && channels == 3 {
        for (channel, out) in out.chunks_exact_mut(area).enumerate() {
            cut(view.channel(channel)?, crop, size, out)?;
        }
        return Ok(());
    }
    let (grey, others) = out.split_at_mut(area);
    cut(view.grey()?, crop, size, grey)?;
    others.chunks_exact_mut(area).for_each(|other| other.copy_from_slice(grey));
    Ok(())
}

fn cut(mut plane: Plane, crop: Crop, size: usize, out: &mut [u8]) -> Result<()> {
    if (plane.width, plane.height) == (size, size) {
        out.copy_from_slice(&plane.values);
        return Ok(());
    }
    while crop == Crop::Adm && plane.width.min(plane.height) >= 2 * size {
        plane = halve(&plane)?;
    }
    let scale = size as f64 / plane.width.min(plane.height) as f64;
    let scaled = |side: usize| (side as f64 * scale).round_ties_even() as usize;
    let (width, height) = (scaled(plane.width), scaled(plane.height));
    if width.saturating_mul(height) > MAX_PIXELS {
        return Err(Error::Strip { width: plane.width, height: plane.height, size });
    }
    let filter = match crop {
        Crop::Adm | Crop::Bicubic => Filter::Bicubic,
        Crop::Lanczos => Filter::Lanczos,
        Crop::Box => Filter::Box,
    };
    let (left, top) = ((width - size) / 2, (height - size) / 2);
    let window = resize(&plane, filter, (width, height), left..left + size, top..top + size)?;
    out.copy_from_slice(&window.values);
    Ok(())
}
