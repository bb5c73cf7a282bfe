//! Conversion of colours to RGB and grey, with Pillow's rounding.

/// Red, green and blue.
pub(super) type Rgb = [u8; 3];

/// Converts RGB to grey (Pillow's mode L): ITU-R 601 luma, rounded.
#[inline(always)]
pub(super) fn luma([red, green, blue]: Rgb) -> u8 {
    let sum = 19595 * u32::from(red) + 38470 * u32::from(green) + 7471 * u32::from(blue);
    ((sum + 0x8000) >> 16) as u8
}

/// Composites a colour on black, rounded as by `Image.alpha_composite`.
#[inline(always)]
pub(super) fn on_black(colour: Rgb, alpha: u8) -> Rgb {
    colour.map(|value| {
        let sum = (u32::from(value) * u32::from(alpha) + 0x80) << 7;
        ((((sum >> 8) + sum) >> 8) >> 7) as u8
    })
}

/// Writes colours as 1 or 3 channels.
#[inline(always)]
pub(super) fn write(colours: impl Iterator<Item = Rgb>, out: &mut [u8], channels: usize) {
    if channels == 1 {
        out.iter_mut().zip(colours).for_each(|(grey, colour)| *grey = luma(colour));
    } else {
        out.as_chunks_mut().0.iter_mut().zip(colours).for_each(|(pixel, colour)| *pixel = colour);
    }
}
