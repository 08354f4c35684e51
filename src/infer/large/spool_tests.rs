use super::*;
use crate::device::random::{Random, Sequence};
use std::collections::BTreeSet;

fn scan(count: usize) -> PointCloud {
    let mut s = Sequence::new(Random::new(7, 7));
    let coord: Vec<[f64; 3]> = (0..count)
        .map(|_| [40.0, 25.0, 3.0].map(|size| 7e5 + size * s.uniform()))
        .collect();
    let column = |name: &str, column| Attribute {
        name: name.into(),
        column,
    };
    PointCloud {
        attributes: vec![
            column("left", Column::U8(vec![1; count])),
            column("kept", Column::I16((0..count as i16).collect())),
        ],
        coord,
    }
}

fn spool(cloud: &PointCloud, voxels: &[f64], buffer: u64) -> Spool {
    let folder = tempfile::tempdir().unwrap();
    let plan = Plan {
        schema: cloud,
        attributes: &[1],
        voxels,
        points: cloud.len() as u64,
        buffer,
    };
    let mut spool = Spool::new(folder.path(), &plan).unwrap();
    let half = cloud.len() / 2;
    let rows = |range: std::ops::Range<usize>| range.map(|i| i as u32).collect::<Vec<_>>();
    spool.push(&cloud.select(&rows(0..half)), 0).unwrap();
    spool
        .push(&cloud.select(&rows(half..cloud.len())), half as u64)
        .unwrap();
    spool.finish().unwrap();
    spool
}

/// Reads the packets that touch a rectangle; returns the numbers of the points.
fn found(spool: &Spool, cloud: &PointCloud, which: usize, rect: Rect) -> Vec<u64> {
    let spans = spool.spans(which);
    let mut numbers = Vec::new();
    let wanted = |i: usize| spans[i].rect.touches(&rect);
    let take = |rows: &[u8]| {
        let decoded = spool.decode(rows);
        let each = rows.chunks_exact(spool.stride());
        for (i, n) in each.map(number).enumerate() {
            assert_eq!(decoded.coord[i], cloud.coord[n as usize]);
            assert_eq!(decoded.attributes[0].column.get(i), n as f64);
            numbers.push(n);
        }
        Ok(())
    };
    spool.visit(wanted, take).unwrap();
    numbers
}

#[test]
fn parts_hold_all_their_points_and_few_others() {
    let cloud = scan(20_000);
    for buffer in [20_000, 1 << 30] {
        let spool = spool(&cloud, &[0.7, 0.3], buffer);
        assert_eq!(spool.points(), 20_000);
        for which in [0, 1] {
            let grid = spool.grid(which);
            let middle = column(grid.cell([7e5 + 20.0, 7e5 + 10.0, 7e5]));
            let rect = Rect {
                low: middle,
                high: middle.map(|x| x + 9),
            };
            let numbers = found(&spool, &cloud, which, rect);
            let inside = (0..20_000u64)
                .filter(|n| rect.contains(column(grid.cell(cloud.coord[*n as usize]))));
            let inside: BTreeSet<u64> = inside.collect();
            let all: BTreeSet<u64> = numbers.iter().copied().collect();
            assert_eq!(all.len(), numbers.len(), "no point comes twice");
            assert!(inside.len() > 100 && inside.is_subset(&all));
            if buffer > 20_000 {
                assert!(all.len() < 6000, "{} for {}", all.len(), inside.len());
            }
        }
        let everything = Rect {
            low: [i32::MIN; 2],
            high: [i32::MAX; 2],
        };
        let mut all = found(&spool, &cloud, 0, everything);
        all.sort_unstable();
        assert!(all.into_iter().eq(0..20_000));
    }
}

#[test]
fn occupied_voxels_are_counted_per_packet() {
    let cloud = scan(5000);
    let spool = spool(&cloud, &[1000.0, 0.001], 1 << 30);
    assert!(spool.spans(0).iter().all(|s| s.voxels <= 8));
    assert!(spool.spans(1).iter().all(|s| s.voxels == s.points));
}

#[test]
fn unusable_points_are_left_out_and_far_ones_are_found() {
    let mut cloud = scan(1000);
    cloud.coord[3] = [f64::NAN, 0.0, 0.0];
    cloud.coord[4] = [1e13, 0.0, 0.0];
    cloud.coord[5] = [1e12, -1e12, 0.0];
    let spool = spool(&cloud, &[0.1], 1 << 30);
    assert_eq!(spool.points(), 998);
    let end = column(spool.grid(0).cell(cloud.coord[5]));
    assert_eq!(end, [i32::MAX, i32::MIN]);
    let rect = Rect {
        low: end,
        high: end,
    };
    assert!(found(&spool, &cloud, 0, rect).contains(&5));
}

#[test]
fn the_curve_keeps_neighbours_together() {
    let mut cells: Vec<[i32; 2]> = (0..64).map(|i| [i % 8 - 4, i / 8 - 4]).collect();
    cells.sort_by_key(|c| order(*c));
    let quadrant = |c: &[i32; 2]| c.map(|x| x >= 0);
    for quarter in cells.chunks(16) {
        assert!(quarter.iter().all(|c| quadrant(c) == quadrant(&quarter[0])));
    }
}
