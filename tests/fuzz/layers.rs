//! LAZ files that make decoders work on many fields at once.

use std::io::Cursor;

/// Extra bytes of a point: each is coded by itself, and each for itself in every scanner channel.
const EXTRA: u16 = 20_000;

/// A LAZ file of a few points with thousands of extra bytes, all of which change in every point.
pub fn of_many_extra_bytes(format: u8) -> Vec<u8> {
    let mut header = las::Builder::from((1, 4));
    header.point_format = las::point::Format::new(format).unwrap();
    header.point_format.extra_bytes = EXTRA;
    header.point_format.is_compressed = true;
    let header = header.into_header().unwrap();
    let mut writer = las::Writer::new(Cursor::new(Vec::new()), header).unwrap();
    let mut random = crate::mutate::Random(format.into());
    for i in 0..8 {
        let point = las::Point {
            x: f64::from(i),
            return_number: 1,
            number_of_returns: 1,
            gps_time: Some(0.0),
            scanner_channel: if format >= 6 { i % 4 } else { 0 },
            extra_bytes: (0..EXTRA).map(|_| random.below(256) as u8).collect(),
            ..las::Point::default()
        };
        writer.write_point(point).unwrap();
    }
    writer.into_inner().unwrap().into_inner()
}
