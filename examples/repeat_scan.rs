//! Reading and writing piece by piece: a scan repeated side by side, larger than memory if need be.
//!
//!     cargo run --release --example repeat_scan -- IN OUT COLUMNS ROWS
//!
//! Without arguments, a tile of this repository is repeated twice in each direction.

use cairn::io::{self, Output, Records};

/// Public, so that a test can run the example.
pub fn main() -> cairn::Result<()> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    match given.as_slice() {
        [input, output, columns, rows] => {
            let number = |text: &String| {
                text.parse::<u32>()
                    .map_err(|e| cairn::Error::argument(text, e.to_string()))
            };
            repeat(input, output, [number(columns)?, number(rows)?])
        }
        _ => {
            let tile = "data/scans/ign_urban/test_data_77060_627755_LA93_IGN69.laz";
            let output = std::env::temp_dir().join("cairn_repeated.las");
            let output = output.to_string_lossy();
            repeat(tile, &output, [2, 2])?;
            let scan = io::read(&*output)?;
            println!("{output}: {} points", scan.cloud.len());
            std::fs::remove_file(&*output).map_err(|e| cairn::Error::io(&*output, e))
        }
    }
}

fn repeat(input: &str, output: &str, [columns, rows]: [u32; 2]) -> cairn::Result<()> {
    // A first reading for the extent: the header may lie, and a writer has to know the corners of what will come.
    let tile = io::read(input)?;
    let (low, high) = tile.cloud.extent().unwrap_or_default();
    let step = [0, 1].map(|a: usize| (high[a] - low[a]).ceil());
    let corner = [
        high[0] + step[0] * f64::from(columns - 1),
        high[1] + step[1] * f64::from(rows - 1),
        high[2],
    ];
    // The schema names the attributes. Without a source the points are written as new ones, since their bytes have changed.
    let plan = Output {
        schema: &tile.cloud,
        source: &io::Source::None,
        count: tile.cloud.len() as u64 * u64::from(columns) * u64::from(rows),
        extent: Some((low, corner)),
        classes: None,
    };
    let mut writer = io::create(output, &plan)?;
    for row in 0..rows {
        for column in 0..columns {
            // A reader gives some thousand points at a time, so only these are in memory.
            let mut reader = io::open(input)?;
            while let Some(mut chunk) = reader.next_chunk(io::CHUNK)? {
                for p in &mut chunk.cloud.coord {
                    p[0] += step[0] * f64::from(column);
                    p[1] += step[1] * f64::from(row);
                }
                writer.write(&chunk.cloud, &Records::default(), None)?;
            }
        }
    }
    // The file appears only now, whole.
    writer.finish()?.iter().for_each(|note| println!("{note}"));
    Ok(())
}
