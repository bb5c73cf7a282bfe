//! PNG files: whatever the bytes are, the decoder neither panics nor gives another size than it promised.

#![no_main]

use dap_core::images::{self, Format};
use libfuzzer_sys::fuzz_target;

const MAX_PIXELS: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let Ok(Some(info)) = images::inspect(data, MAX_PIXELS) else { return };
    if info.format != Format::Png {
        return;
    }
    for channels in [1, 3] {
        if let Ok(image) = images::decode(data, Some(channels), MAX_PIXELS) {
            assert_eq!((image.width, image.height, image.channels), (info.width, info.height, channels));
            assert_eq!(image.pixels.len(), image.width * image.height * channels);
        }
    }
});
