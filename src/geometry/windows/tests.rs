use super::*;
use crate::device::parallel;
use crate::geometry::golden::Golden;
use crate::geometry::shapes;
use std::collections::BTreeSet;

/// One pair: query row, key row, whether it is dense.
type Pair = (usize, usize, bool);

/// The explicit pair list, sorted.
fn pairs(windows: &Windows) -> Vec<Pair> {
    let row = |position: usize| windows.order[position] as usize;
    let mut pairs = Vec::new();
    for group in windows.groups() {
        for query in group.queries.clone() {
            let dense = group.dense.clone().map(|key| (row(query), row(key), true));
            pairs.extend(dense);
            let sparse = windows.sparse(group);
            pairs.extend(sparse.map(|(_, key)| (row(query), row(key), false)));
        }
    }
    pairs.sort_unstable();
    pairs
}

/// The pair list by its definition, in f32 but one pair after another.
fn naive(
    coord: &[[f32; 3]],
    offsets: &[usize],
    options: WindowOptions,
    sampled: &[u32],
) -> Vec<Pair> {
    let start = lowest(coord);
    let cell = |row: usize, size: f32| -> ([i64; 3], usize) {
        let shift = if options.shifted { size / 2.0 } else { 0.0 };
        let cell = |a: usize| ((coord[row][a] + shift - start[a]) / size).trunc() as i64;
        let element = offsets.iter().filter(|o| **o <= row).count();
        ([cell(0), cell(1), cell(2)], element)
    };
    let sampled: BTreeSet<usize> = sampled.iter().map(|row| *row as usize).collect();
    let (w, n) = (options.size, coord.len());
    let mut pairs = Vec::new();
    for i in 0..n {
        for j in 0..n {
            if cell(i, w) == cell(j, w) {
                pairs.push((i, j, true));
            } else if sampled.contains(&j) && cell(i, 2.0 * w) == cell(j, 2.0 * w) {
                pairs.push((i, j, false));
            }
        }
    }
    pairs
}

fn options(size: f32, shifted: bool) -> WindowOptions {
    WindowOptions {
        size,
        step: size / 8.0,
        shifted,
    }
}

/// The explicit pair list from the lists for GPUs, once by queries and once by keys, each sorted.
fn tiled_pairs(windows: &Windows) -> [Vec<Pair>; 2] {
    let tiles = windows.tiles();
    let row = |position: u32| windows.order[position as usize] as usize;
    let (groups, _) = tiles.groups.as_chunks::<4>();
    let mut by_query = Vec::new();
    for [group, first] in tiles.queries.as_chunks::<2>().0 {
        let [end, dense, dense_end, list] = groups[*group as usize];
        for query in *first..end.min(first + TILE as u32) {
            let own = |key: u32| tiles.window[key as usize] == tiles.window[query as usize];
            by_query.extend((dense..dense_end).map(|key| (row(query), row(key), true)));
            let sparse = windows.sampled.list(list as usize).iter();
            let sparse = sparse.filter(|key| !own(**key));
            by_query.extend(sparse.map(|key| (row(query), row(*key), false)));
        }
    }
    let mut by_key = Vec::new();
    for [first, end, queries, last] in tiles.dense.as_chunks::<4>().0 {
        let all = (*first..*end).flat_map(|key| (*queries..*last).map(move |query| (query, key)));
        by_key.extend(all.map(|(query, key)| (row(query), row(key), true)));
    }
    for [first, end, queries, last] in tiles.sparse.as_chunks::<4>().0 {
        for key in &windows.sampled.index[*first as usize..*end as usize] {
            let own = |query: u32| tiles.window[query as usize] == tiles.window[*key as usize];
            let members = &tiles.members.index[*queries as usize..*last as usize];
            let members = members.iter().filter(|query| !own(**query));
            by_key.extend(members.map(|query| (row(*query), row(*key), false)));
        }
    }
    by_query.sort_unstable();
    by_key.sort_unstable();
    [by_query, by_key]
}

/// Everything that the ops rely on.
fn assert_consistent(windows: &Windows) {
    let want = pairs(windows);
    for (got, what) in tiled_pairs(windows).into_iter().zip(["queries", "keys"]) {
        assert!(got == want, "tiles of {what} stand for other pairs");
    }
    assert_eq!(2 * windows.query_tiles(), windows.tiles().queries.len());
    let mut next = 0;
    for group in windows.groups() {
        assert_eq!(group.queries.start, next);
        assert!(!group.queries.is_empty());
        assert!(group.dense.start <= group.queries.start && group.queries.end <= group.dense.end);
        assert_eq!(group.sparse, windows.sparse(group).count());
        next = group.queries.end;
    }
    assert_eq!(next, windows.points());
    windows.sampled.check(windows.points()).unwrap();
    let mut next = 0;
    for part in windows.parts() {
        assert_eq!(part.groups.start, next);
        next = part.groups.end;
        let slots = part.touched.iter().map(|t| windows.sampled.list(t.0).len());
        assert_eq!(part.slots, slots.sum::<usize>());
        for group in &windows.groups()[part.groups.clone()] {
            assert!(part.touched.contains(&(group.large, group.slot)));
        }
        if let Some(after) = windows.groups().get(next) {
            assert_ne!(
                after.dense,
                windows.groups()[next - 1].dense,
                "a window is cut"
            );
        }
    }
    assert_eq!(next, windows.groups().len());
    assert!(windows.parts().len() <= parallel::PARTIALS);
}

#[test]
fn cells_are_those_of_the_reference() {
    let golden = Golden::of("stratified", "op_partition");
    let (coord, offsets) = (golden.points("coord"), golden.offsets("offset"));
    let w = golden.f32("window_size")[0];
    for (name, size, shifted) in [
        ("small", w, false),
        ("small_shift", w, true),
        ("large", 2.0 * w, false),
        ("large_shift", 2.0 * w, true),
    ] {
        let grid = Grid::new(lowest(&coord), size, shifted);
        let cells = Cells::new(&coord, &offsets, grid).unwrap();
        let want = golden.i64(&format!("{name}.cell_id"));
        assert!(
            cells.keys.iter().zip(&want).all(|(a, b)| *a == *b as u64),
            "{name}"
        );
        let order = order_by_key(&cells.keys);
        let windows = groups(&order, &cells.keys, None);
        let counts = windows.iter().map(|g| g.dense.len() as i64);
        assert!(counts.eq(golden.i64(&format!("{name}.counts"))), "{name}");
        let rank = golden.i64(&format!("{name}.v2p"));
        for (window, group) in windows.iter().enumerate() {
            let rows = &order[group.queries.clone()];
            assert!(
                rows.iter().all(|row| rank[*row as usize] == window as i64),
                "{name}"
            );
        }
    }
}

#[test]
fn keys_and_bins_are_those_of_the_reference() {
    let golden = Golden::of("stratified", "op_stratified_keys");
    let (coord, offsets) = (golden.points("coord"), golden.offsets("offset"));
    let sampled = golden.i32("downsample_idx");
    let sampled: Vec<u32> = sampled.into_iter().map(|i| i as u32).collect();
    for (block, shifted) in [("block0", false), ("block1", true)] {
        let options = WindowOptions {
            size: golden.f32("window_size")[0],
            step: 0.02,
            shifted,
        };
        let windows = Windows::stratified(&coord, &offsets, options, &sampled).unwrap();
        assert_consistent(&windows);
        let read = |name: &str| golden.i32(&format!("{block}.{name}")).into_iter();
        let index = read("index_0").zip(read("index_1")).zip(read("is_dense"));
        let want: Vec<Pair> = index
            .map(|((i, j), dense)| (i as usize, j as usize, dense == 1))
            .collect();
        let got = pairs(&windows);
        assert_eq!(got, want, "{block}");
        assert_eq!(windows.pairs(), want.len());
        assert!(windows.quantization.bins() <= 32);
        let bins = got.iter().flat_map(|(i, j, _)| {
            let (a, b) = (coord[*i], coord[*j]);
            let bin = move |axis: usize| windows.quantization.bin(a[axis], b[axis], 32) as i32;
            [bin(0), bin(1), bin(2)]
        });
        assert!(bins.eq(read("rel_idx")), "{block}");
        assert!(
            windows.bytes() < 120 * coord.len(),
            "{} bytes",
            windows.bytes()
        );
    }
}

#[test]
fn pairs_match_naive() {
    let clouds = [
        shapes::batch(&[shapes::uniform(300, 1), vec![], shapes::uniform(1, 2)]),
        shapes::batch(&[shapes::uniform(150, 3), shapes::uniform(90, 4)]),
        shapes::batch(&[vec![[1.0; 3]; 40], shapes::uniform(30, 5)]),
        (vec![], vec![0, 0]),
        (vec![], vec![0]),
    ];
    for (coord, offsets) in clouds {
        let sampled: Vec<u32> = (0..coord.len() as u32).filter(|i| i % 5 == 0).collect();
        let twice = [&sampled[..], &sampled[..sampled.len() / 2]].concat();
        for size in [0.07, 0.3, 5.0] {
            for shifted in [false, true] {
                let options = options(size, shifted);
                let windows = Windows::stratified(&coord, &offsets, options, &twice).unwrap();
                assert_consistent(&windows);
                let want = naive(&coord, &offsets, options, &sampled);
                assert_eq!(pairs(&windows), want, "{size} {shifted}");
                let swin = Windows::swin(&coord, &offsets, options).unwrap();
                assert_consistent(&swin);
                let dense = want.into_iter().filter(|pair| pair.2).collect::<Vec<_>>();
                assert_eq!(pairs(&swin), dense, "swin {size} {shifted}");
            }
        }
    }
}

#[test]
fn offsets_just_above_the_reach_are_in_bin_0() {
    let quantization = Quantization::Offset {
        reach: 0.32,
        step: 0.01,
    };
    assert_eq!(quantization.bin(0.0, 0.31995, 64), 0);
    assert_eq!(quantization.bin(0.31995, 0.0, 64), 63);
    assert_eq!(quantization.bins(), 64);
    assert_eq!(Quantization::stratified_rows(0.16, 0.01), 64);
    assert_eq!(Quantization::stratified_rows(0.2, 0.01), 80);
    assert_eq!(Quantization::swin_rows(0.16, 0.01), 31);
    assert_eq!(Quantization::swin_rows(0.2, 0.01), 39);
}

#[test]
fn swin_counts_bins_from_cell_to_cell() {
    let coord = [[0.0, 0.0, 0.0], [0.155, 0.0, 0.0], [0.075, 0.0, 0.0]];
    let options = WindowOptions {
        size: 0.16,
        step: 0.01,
        shifted: false,
    };
    let windows = Windows::swin(&coord, &[0, 3], options).unwrap();
    assert_eq!(windows.quantization, Quantization::Cell { center: 15.0 });
    assert_eq!(windows.quantization.bins(), 31);
    let x = &windows.place[0];
    assert_eq!(x[..], [0.0, 15.0, 7.0]);
    assert_eq!(windows.quantization.bin(x[0], x[1], 31), 0);
    assert_eq!(windows.quantization.bin(x[1], x[0], 31), 30);
}

#[test]
fn options_that_make_no_sense_are_refused() {
    let coord = [[0.0; 3]; 2];
    let run = |size: f32, step: f32, sampled: &[u32]| {
        let options = WindowOptions {
            size,
            step,
            shifted: false,
        };
        Windows::stratified(&coord, &[0, 2], options, sampled)
    };
    assert!(run(0.1, 0.01, &[1]).is_ok());
    for (size, step) in [
        (0.0, 0.01),
        (f32::NAN, 0.01),
        (1e7, 1.0),
        (f32::INFINITY, 1.0),
        (0.1, 0.0),
        (0.1, 0.2),
    ] {
        assert!(run(size, step, &[]).is_err(), "{size} {step}");
    }
    let message = run(0.1, 0.01, &[2]).unwrap_err().to_string();
    assert!(message.contains("row 2"), "{message}");
    let far = [[0.0; 3], [1e30; 3]];
    let message = Windows::stratified(&far, &[0, 2], options(1e-3, false), &[]).unwrap_err();
    assert!(message.to_string().contains("too small"), "{message}");
}
