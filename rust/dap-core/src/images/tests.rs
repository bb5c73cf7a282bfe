use super::*;
use crate::simd::Level;

const MAX: usize = 1 << 24;

fn gradient(channels: usize, height: usize, width: usize) -> Vec<u8> {
    (0..channels * height * width).map(|index| (index * 7919 % 251) as u8).collect()
}

#[test]
fn what_is_encoded_is_decoded() {
    for channels in [1, 3] {
        let planes = gradient(channels, 13, 9);
        let data = encode(&planes, [channels, 13, 9], Format::Png).unwrap();
        assert_eq!(data, encode(&planes, [channels, 13, 9], Format::Png).unwrap());
        let info = inspect(&data, MAX).unwrap().unwrap();
        assert_eq!((info.format, info.width, info.height, info.channels), (Format::Png, 9, 13, channels));
        let image = decode(&data, None, MAX).unwrap();
        assert_eq!(image.pixels, plane::interleave(&planes, channels).unwrap());
    }
}

#[test]
fn a_size_beyond_the_limit_is_refused() {
    let data = encode(&gradient(1, 10, 10), [1, 10, 10], Format::Png).unwrap();
    assert!(decode(&data, None, 100).is_ok());
    assert_eq!(decode(&data, None, 99).unwrap_err(), Error::Pixels { width: 10, height: 10, max_pixels: 99 });
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(encode(&[0; 12], [2, 2, 3], Format::Png).is_err());
    assert!(encode(&[0; 12], [3, 2, 3], Format::Png).is_err());
    assert!(encode(&[], [1, 0, 3], Format::Png).is_err());
    assert!(encode(&[0; 16385], [1, 1, 16385], Format::WebP).is_err());
    let view = View { width: 4, height: 3, channels: 1, pixels: &[0; 12], orientation: 1 };
    assert!(square(view, Crop::Adm, 1, 2, &mut [0; 4]).is_ok());
    assert!(square(view, Crop::Adm, 1, 2, &mut [0; 5]).is_err());
    assert!(square(View { width: 5, ..view }, Crop::Adm, 1, 2, &mut [0; 4]).is_err());
    assert!(square(View { height: usize::MAX, ..view }, Crop::Adm, 1, 2, &mut [0; 4]).is_err());
}

#[test]
fn every_orientation_turns_as_exif_says() {
    // 1 2 3
    // 4 5 6, whose first row and column are at the side that the standard names
    let upright = [
        [1, 2, 3, 4, 5, 6],
        [3, 2, 1, 6, 5, 4],
        [6, 5, 4, 3, 2, 1],
        [4, 5, 6, 1, 2, 3],
        [1, 4, 2, 5, 3, 6],
        [4, 1, 5, 2, 6, 3],
        [6, 3, 5, 2, 4, 1],
        [3, 6, 2, 5, 1, 4],
    ];
    for (orientation, expected) in (1..).zip(upright) {
        let view = View { width: 3, height: 2, channels: 1, pixels: &[1, 2, 3, 4, 5, 6], orientation };
        let plane = view.channel(0).unwrap();
        assert_eq!(plane.values, expected, "{orientation}");
        assert_eq!((plane.width, plane.height), if orientation > 4 { (2, 3) } else { (3, 2) });
    }
}

#[test]
fn a_cut_anywhere_is_an_error() {
    let data = encode(&gradient(3, 20, 20), [3, 20, 20], Format::Png).unwrap();
    for len in 0..data.len() {
        assert!(decode(&data[..len], None, MAX).is_err(), "{len}");
    }
}

#[test]
fn augmented_values_are_the_same_at_every_level_and_for_any_threads() {
    let shape = [3, 19, 37];
    let images = gradient(9, 19, 37);
    let changes: Vec<_> = [(2, -3, 5, true), (0, 0, 0, false), (0, 19, -40, true)]
        .map(|(image, top, left, flip)| Change { image, top, left, flip, factors: Some([1.3, 0.7, 1.2]) })
        .into();
    let normal = [[0.4, 0.2], [0.5, 0.25], [0.6, 0.3]];
    let mut outputs = Vec::new();
    for level in Level::available() {
        for threads in [1, 3] {
            let mut out = vec![0.0; images.len()];
            level.within(|| {
                augment(&images, shape, &changes, &normal, &mut out, Some(threads), &mut || Ok(())).unwrap();
            });
            outputs.push(out);
        }
    }
    assert!(outputs.iter().all(|out| out == &outputs[0]) && outputs[0].iter().any(|value| *value != outputs[0][0]));
}

#[test]
fn what_does_not_fit_is_refused() {
    let change = Change { image: 0, top: 0, left: 0, flip: false, factors: None };
    let mut out = [0.0; 4];
    let mut call = |images: &[u8], shape, changes: &[Change], normal: &[[f32; 2]]| {
        augment(images, shape, changes, normal, &mut out, None, &mut || Ok(()))
    };
    call(&[0; 8], [1, 2, 2], &[change], &[[0.0, 1.0]]).unwrap();
    assert!(call(&[0; 3], [1, 2, 2], &[change], &[[0.0, 1.0]]).is_err());
    assert!(call(&[0; 4], [2, 1, 2], &[change], &[[0.0, 1.0]; 2]).is_err());
    assert!(call(&[0; 4], [1, 2, 2], &[], &[[0.0, 1.0]]).is_err());
    assert!(call(&[0; 4], [1, 2, 2], &[change], &[]).is_err());
    assert!(call(&[0; 4], [1, usize::MAX, 2], &[change], &[[0.0, 1.0]]).is_err());
    let beyond = Change { image: 2, ..change };
    assert_eq!(call(&[0; 8], [1, 2, 2], &[beyond], &[[0.0, 1.0]]), Err(Error::Row { row: 2, rows: 2 }));
}

#[test]
fn resized_crops_are_the_same_at_every_level_and_for_any_threads() {
    let (images, colours) = (gradient(6, 19, 37), [0.5, 0.1, 0.2, 0.3, 0.0, -0.1, 2.0].repeat(3));
    let crop =
        ResizedCrop { image: 0, strips: [&[1, 0, 2], &[2, 0, 1]], part: [2, 3, 15, 20], flip: true, colours: &colours };
    let crops = [crop, ResizedCrop { image: 1, part: [0, 0, 19, 37], flip: false, ..crop }];
    let mut outputs = Vec::new();
    for level in Level::available() {
        for threads in [1, 3] {
            let mut out = vec![0.0; 2 * 3 * 18 * 18];
            level.within(|| {
                resized_crops(&images, [3, 19, 37], &crops, 18, &mut out, Some(threads), &mut || Ok(())).unwrap();
            });
            outputs.push(out);
        }
    }
    assert!(outputs.iter().all(|out| out == &outputs[0]) && outputs[0].iter().any(|value| *value != outputs[0][0]));
}
