//! Planes: single channels, which are turned upright and resized one at a time.

use super::colour::luma;
use crate::error::{Error, Result};
use crate::memory::zeros;

/// A borrowed image: rows of interleaved channels.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Columns as stored.
    pub width: usize,
    /// Rows as stored.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Height × width × channels values.
    pub pixels: &'a [u8],
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
}

/// One channel.
pub(super) struct Plane {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) values: Vec<u8>,
}

impl View<'_> {
    pub(super) fn check(&self) -> Result<()> {
        let shape = [self.height, self.width, self.channels];
        let len = self.height.checked_mul(self.width).and_then(|pixels| pixels.checked_mul(self.channels));
        if matches!(self.channels, 1 | 3) && len == Some(self.pixels.len()) && !self.pixels.is_empty() {
            return Ok(());
        }
        Err(Error::ImageShape { shape, expected: "(height, width, 1 or 3), none of them empty" })
    }

    /// Whether the image is not stored upright.
    pub(super) fn turned(&self) -> bool {
        (2..=8).contains(&self.orientation)
    }

    /// Returns a channel, turned upright.
    pub(super) fn channel(&self, channel: usize) -> Result<Plane> {
        match self.channels {
            1 => self.upright(|pixel: &[u8; 1]| pixel[0]),
            _ => self.upright(|pixel: &[u8; 3]| pixel[channel]),
        }
    }

    /// Returns the image in grey, turned upright.
    pub(super) fn grey(&self) -> Result<Plane> {
        match self.channels {
            1 => self.upright(|pixel: &[u8; 1]| pixel[0]),
            _ => self.upright(|pixel: &[u8; 3]| luma(*pixel)),
        }
    }

    fn upright<const N: usize>(&self, value: impl Fn(&[u8; N]) -> u8) -> Result<Plane> {
        let pixels = self.pixels.as_chunks::<N>().0;
        let (w, h) = (self.width, self.height);
        let mut values = zeros(w * h)?;
        if !self.turned() {
            values.iter_mut().zip(pixels).for_each(|(to, from)| *to = value(from));
            return Ok(Plane { width: w, height: h, values });
        }
        let (width, height) = if self.orientation > 4 { (h, w) } else { (w, h) };
        for (y, row) in values.chunks_exact_mut(width).enumerate() {
            for (x, to) in row.iter_mut().enumerate() {
                let (column, line) = match self.orientation {
                    2 => (w - 1 - x, y),
                    3 => (w - 1 - x, h - 1 - y),
                    4 => (x, h - 1 - y),
                    5 => (y, x),
                    6 => (y, h - 1 - x),
                    7 => (w - 1 - y, h - 1 - x),
                    _ => (w - 1 - y, x),
                };
                *to = value(&pixels[line * w + column]);
            }
        }
        Ok(Plane { width, height, values })
    }
}

/// Writes rows of three interleaved channels as planes.
pub(super) fn deinterleave(pixels: &[u8], planes: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: this CPU has the feature.
        return unsafe { deinterleave_avx2(pixels, planes) };
    }
    split(pixels, planes);
}

/// [`split`] with byte shuffles, which the baseline does not have.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn deinterleave_avx2(pixels: &[u8], planes: &mut [u8]) {
    split(pixels, planes);
}

#[inline(always)]
fn split(pixels: &[u8], planes: &mut [u8]) {
    let (red, rest) = planes.split_at_mut(planes.len() / 3);
    let (green, blue) = rest.split_at_mut(red.len());
    let pixels = &pixels.as_chunks::<3>().0[..red.len()];
    let (green, blue) = (&mut green[..pixels.len()], &mut blue[..pixels.len()]);
    for (at, pixel) in pixels.iter().enumerate() {
        red[at] = pixel[0];
        green[at] = pixel[1];
        blue[at] = pixel[2];
    }
}

/// Returns planes as rows of interleaved channels.
pub(super) fn interleave(planes: &[u8], channels: usize) -> Result<Vec<u8>> {
    let mut pixels = zeros(planes.len())?;
    if channels == 1 {
        pixels.copy_from_slice(planes);
        return Ok(pixels);
    }
    let (red, rest) = planes.split_at(planes.len() / 3);
    let (green, blue) = rest.split_at(red.len());
    for (pixel, ((red, green), blue)) in pixels.as_chunks_mut().0.iter_mut().zip(red.iter().zip(green).zip(blue)) {
        *pixel = [*red, *green, *blue];
    }
    Ok(pixels)
}
