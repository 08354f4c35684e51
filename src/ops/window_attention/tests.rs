use super::*;
use crate::device::Device;
use crate::geometry::golden::Golden;
use crate::geometry::{Hierarchy, WindowOptions};
use crate::graph::check::{Check, assert_close, devices, spread};
use crate::ops::reference::{run, run_on};

/// (query row, key row) of every pair.
fn pairs(windows: &Windows) -> Vec<(usize, usize)> {
    let row = |position: usize| windows.order[position] as usize;
    let mut pairs = Vec::new();
    for group in windows.groups() {
        let sparse = windows.sparse(group).map(|(_, position)| position);
        let keys: Vec<usize> = group.dense.clone().chain(sparse).collect();
        for query in group.queries.clone() {
            pairs.extend(keys.iter().map(|key| (row(query), row(*key))));
        }
    }
    pairs
}

/// Windows and what the naive twin needs to know of them.
struct Case {
    windows: Arc<Windows>,
    pairs: Vec<(usize, usize)>,
    /// Bins of every pair.
    bins: Vec<[usize; 3]>,
    rows: usize,
}

impl Case {
    fn new(windows: Windows, rows: usize) -> Case {
        let pairs = pairs(&windows);
        let mut place = vec![[0.0; 3]; windows.points()];
        for (position, row) in windows.order.iter().enumerate() {
            place[*row as usize] = windows.place.each_ref().map(|plane| plane[position]);
        }
        let bin = |i: usize, j: usize, axis: usize| {
            let quantization = windows.quantization;
            quantization.bin(place[i][axis], place[j][axis], rows)
        };
        let bins = pairs
            .iter()
            .map(|(i, j)| [0, 1, 2].map(|axis| bin(*i, *j, axis)));
        Case {
            bins: bins.collect(),
            pairs,
            windows: Arc::new(windows),
            rows,
        }
    }

    fn uniform(counts: &[usize], size: f32, shifted: bool) -> Case {
        let mut offsets = vec![0];
        counts
            .iter()
            .for_each(|n| offsets.push(offsets[offsets.len() - 1] + n));
        let points = offsets[counts.len()];
        let values = spread(Shape::new(points, 3), 3);
        let coord: Vec<[f32; 3]> = values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect();
        let sampled: Vec<u32> = (0..points as u32).step_by(4).collect();
        let options = WindowOptions {
            size,
            step: size / 4.0,
            shifted,
        };
        let windows = Windows::stratified(&coord, &offsets, options, &sampled).unwrap();
        Case::new(windows, 17)
    }

    /// One pair after another, in f64.
    fn naive(&self, heads: usize, tables: PositionTables, x: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let n = self.windows.points();
        let c = x[0].len() / 3 / n.max(1);
        let d = c / heads;
        let inputs = tables.inputs();
        let value =
            |row: usize, part: usize, h: usize, e: usize| x[0][(row * 3 + part) * c + h * d + e];
        let table = |t: usize, bins: &[usize; 3], h: usize, e: usize| -> f64 {
            let Some(table) = inputs[t].map(|i| &x[i]) else {
                return 0.0;
            };
            (0..3)
                .map(|axis| table[(bins[axis] * c + h * d + e) * 3 + axis])
                .sum()
        };
        let mut y = vec![0.0; n * c];
        let mut total = vec![0.0; n * heads];
        for ((i, j), bins) in self.pairs.iter().zip(&self.bins) {
            for h in 0..heads {
                let score: f64 = (0..d)
                    .map(|e| {
                        let (q, k) = (value(*i, 0, h, e) / (d as f64).sqrt(), value(*j, 1, h, e));
                        q * k + q * table(0, bins, h, e) + k * table(1, bins, h, e)
                    })
                    .sum();
                total[i * heads + h] += score.exp();
                for e in 0..d {
                    let v = value(*j, 2, h, e) + table(2, bins, h, e);
                    y[i * c + h * d + e] += score.exp() * v;
                }
            }
        }
        y.iter_mut()
            .enumerate()
            .for_each(|(e, y)| *y /= total[e / d]);
        vec![y]
    }

    fn check(&self, heads: usize, width: usize, tables: PositionTables) {
        let op = WindowAttention::new(self.windows.clone(), heads, tables);
        let c = heads * width;
        let mut check = Check::new(op).input(self.windows.points(), 3 * c);
        for _ in 0..tables.count() {
            let shape = Shape::new(self.rows, 3 * c);
            let table = spread(shape, 9).iter().map(|x| 0.3 * x).collect();
            check = check.input_values(shape, table);
        }
        check.run(|x| self.naive(heads, tables, x));
    }
}

#[test]
fn every_head_width_matches_naive() {
    let case = Case::uniform(&[50], 1.1, true);
    for (heads, width) in [(1, 16), (3, 16), (2, 32), (1, 5), (2, 24), (1, 40), (5, 1)] {
        case.check(heads, width, PositionTables::ALL);
    }
}

#[test]
fn every_choice_of_tables_matches_naive() {
    let case = Case::uniform(&[40], 1.1, false);
    for choice in 0..8 {
        let tables = PositionTables {
            query: choice & 1 > 0,
            key: choice & 2 > 0,
            value: choice & 4 > 0,
        };
        case.check(2, 8, tables);
    }
}

#[test]
fn ragged_batches_match_naive() {
    for counts in [&[30, 0, 1, 25][..], &[1], &[0], &[], &[2, 2]] {
        for shifted in [false, true] {
            Case::uniform(counts, 0.9, shifted).check(2, 4, PositionTables::ALL);
        }
    }
}

#[test]
fn many_windows_and_large_ones_match_naive() {
    // several parts; then a window of several tiles of queries and of keys, with sparse keys behind its border
    Case::uniform(&[400], 0.7, true).check(1, 4, PositionTables::ALL);
    Case::uniform(&[300], 3.1, false).check(1, 3, PositionTables::ALL);
}

#[test]
fn swin_windows_match_naive() {
    let values = spread(Shape::new(60, 3), 3);
    let coord: Vec<[f32; 3]> = values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect();
    for shifted in [false, true] {
        let options = WindowOptions {
            size: 1.2,
            step: 0.2,
            shifted,
        };
        let windows = Windows::swin(&coord, &[0, 35, 60], options).unwrap();
        let rows = windows.quantization.bins();
        assert_eq!(rows, 11);
        Case::new(windows, rows).check(2, 16, PositionTables::ALL);
    }
}

/// Offsets of more than 2^22 units of 10 µm, where they are rounded.
#[test]
fn windows_of_many_metres_match_naive() {
    let values = spread(Shape::new(80, 3), 3);
    let coord: Vec<[f32; 3]> = values
        .chunks(3)
        .map(|p| [0, 1, 2].map(|a| 30.0 * p[a]))
        .collect();
    let options = WindowOptions {
        size: 60.0,
        step: 10.0,
        shifted: true,
    };
    let windows = Windows::stratified(&coord, &[0, 80], options, &[0, 9, 33, 70]).unwrap();
    let rows = windows.quantization.bins();
    let case = Case::new(windows, rows);
    let far = case
        .pairs
        .iter()
        .any(|(i, j)| (coord[*i][0] - coord[*j][0]).abs() > 42.0);
    assert!(far, "no offset passes 2^22 units");
    case.check(2, 8, PositionTables::ALL);
}

/// Outputs, gradients and inputs of attention in `windows` of 300 points, by two heads.
fn trained(device: Device, windows: Arc<Windows>) -> (Vec<Vec<f32>>, Vec<Option<Vec<f32>>>) {
    let rows = windows.quantization.bins();
    let op = WindowAttention::new(windows, 2, PositionTables::ALL);
    let (qkv, table) = (Shape::new(300, 96), Shape::new(rows, 96));
    let mut inputs = vec![(qkv, spread(qkv, 1))];
    inputs.extend((2..5).map(|seed| (table, spread(table, seed))));
    run_on(device, op, &inputs, &spread(Shape::new(300, 32), 6))
}

fn cloud() -> Vec<[f32; 3]> {
    let values = spread(Shape::new(300, 3), 3);
    values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect()
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    // one window and so one part, whose heads are shared out; then a part for each of some windows
    for size in [5.0, 0.9] {
        let options = WindowOptions {
            size,
            step: size / 4.0,
            shifted: false,
        };
        let windows = Windows::stratified(&cloud(), &[0, 300], options, &[3, 90]).unwrap();
        assert_eq!(windows.parts().len() == 1, size == 5.0);
        let windows = Arc::new(windows);
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().unwrap();
            pool.install(|| trained(Device::Cpu, windows.clone()))
        };
        assert!(with(1) == with(4), "{size} m");
    }
}

#[test]
fn windows_that_a_gpu_made_serve_both_devices() {
    let options = WindowOptions {
        size: 0.9,
        step: 0.2,
        shifted: true,
    };
    let rows: Vec<u32> = (0..300).step_by(7).collect();
    let made_on = |device| {
        let mut points = Hierarchy::on(device, cloud(), vec![0, 140, 300]).unwrap();
        let rows = rows.clone().into();
        points.windows(0, options, Some(&rows)).unwrap()
    };
    for device in devices() {
        for worker in [Device::Cpu, device] {
            let expected = trained(worker, made_on(Device::Cpu));
            assert!(trained(worker, made_on(device)) == expected);
        }
    }
}

#[test]
fn more_than_1024_keys_work() {
    let values = spread(Shape::new(2500, 3), 3);
    let coord: Vec<[f32; 3]> = values.chunks(3).map(|p| [p[0], p[1], p[2]]).collect();
    let options = WindowOptions {
        size: 5.0,
        step: 1.0,
        shifted: false,
    };
    let case = Case::new(
        Windows::stratified(&coord, &[0, 2500], options, &[]).unwrap(),
        20,
    );
    assert_eq!(case.windows.pairs(), 2500 * 2500);
    let op = WindowAttention::new(case.windows.clone(), 1, PositionTables::ALL);
    let mut inputs = vec![(Shape::new(2500, 12), spread(Shape::new(2500, 12), 1))];
    inputs.extend((2..5).map(|seed| (Shape::new(20, 12), spread(Shape::new(20, 12), seed))));
    // millions of pairs: too many for the emulator, which has seen windows of several batches of keys above
    let (outputs, gradients) = run_on(Device::Cpu, op, &inputs, &spread(Shape::new(2500, 4), 6));
    let wide: Vec<Vec<f64>> = inputs
        .iter()
        .map(|i| i.1.iter().map(|x| f64::from(*x)).collect())
        .collect();
    let want: Vec<f32> = case.naive(1, PositionTables::ALL, &wide)[0]
        .iter()
        .map(|x| *x as f32)
        .collect();
    assert_close(&outputs[0], &want, 5e-6, "y");
    // Every window's d_v adds up to its d_y: the weights of a query sum to 1.
    let total = |x: &[f32], start: usize, width: usize, c: usize| -> f64 {
        x.iter()
            .skip(start + c)
            .step_by(width)
            .map(|x| f64::from(*x))
            .sum()
    };
    let d_qkv = gradients[0].as_ref().unwrap();
    for c in 0..4 {
        let want = total(&spread(Shape::new(2500, 4), 6), 0, 4, c);
        let got = total(d_qkv, 8, 12, c);
        assert!(
            (got - want).abs() < 1e-3 * want.abs().max(1.0),
            "{got} {want}"
        );
    }
}

#[test]
fn agrees_with_the_reference() {
    let keys = Golden::of("stratified", "op_stratified_keys");
    let golden = Golden::of("stratified", "op_attention");
    let sampled = keys.i32("downsample_idx").into_iter().map(|i| i as u32);
    let options = WindowOptions {
        size: keys.f32("window_size")[0],
        step: 0.02,
        shifted: true,
    };
    let windows = Windows::stratified(
        &keys.points("coord"),
        &keys.offsets("offset"),
        options,
        &sampled.collect::<Vec<_>>(),
    );
    let windows = Arc::new(windows.unwrap());
    let mut own = pairs(&windows);
    own.sort_unstable();
    let read = |name: &str| golden.i32(name).into_iter().map(|i| i as usize);
    assert!(own.into_iter().eq(read("index_0").zip(read("index_1"))));
    // The file's q is scaled, by a power of two.
    let [q, k, v] = ["q", "k", "v"].map(|name| golden.f32(name));
    let mut qkv = Vec::new();
    for row in 0..750 {
        let own = row * 48..row * 48 + 48;
        qkv.extend(q[own.clone()].iter().map(|x| x * 4.0));
        qkv.extend(&k[own.clone()]);
        qkv.extend(&v[own]);
    }
    let table = |name: &str| (Shape::new(32, 144), golden.f32(name));
    for (prefix, value) in [("rv", true), ("norv", false)] {
        let mut inputs = vec![(Shape::new(750, 144), qkv.clone())];
        inputs.extend([table("table_q"), table("table_k")]);
        inputs.extend(value.then(|| table("table_v")));
        let tables = PositionTables {
            value,
            ..PositionTables::ALL
        };
        let op = WindowAttention::new(windows.clone(), 3, tables);
        let (outputs, gradients) = run(op, &inputs, golden.f32("grad_out"));
        let close = |got: &[f32], name: &str, limit: f32| {
            let want = golden.f32(&format!("{prefix}.{name}"));
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs());
            let worst = worst.fold(0.0, f32::max);
            assert!(
                got.len() == want.len() && worst < limit,
                "{prefix}.{name}: {worst:e}"
            );
        };
        let largest = |name: &str| {
            let want = golden.f32(&format!("{prefix}.{name}"));
            want.iter().fold(0.0f32, |m, x| m.max(x.abs()))
        };
        close(&outputs[0], "out", 2e-5);
        let d_qkv = gradients[0].as_ref().unwrap();
        for (part, name) in ["grad_q", "grad_k", "grad_v"].into_iter().enumerate() {
            let rows = d_qkv
                .chunks(144)
                .flat_map(|row| &row[part * 48..(part + 1) * 48]);
            let factor = if part == 0 { 4.0 } else { 1.0 };
            let got: Vec<f32> = rows.map(|x| factor * x).collect();
            close(&got, name, 1e-5 * largest(name));
        }
        let names = ["grad_table_q", "grad_table_k", "grad_table_v"];
        for (got, name) in gradients[1..].iter().zip(names) {
            close(got.as_ref().unwrap(), name, 1e-5 * largest(name));
        }
    }
}

#[test]
fn shapes_that_differ_are_refused() {
    let windows = Case::uniform(&[20], 1.0, false).windows;
    let plan = |heads: usize, tables: PositionTables, shapes: &[Shape]| {
        WindowAttention::new(windows.clone(), heads, tables).plan(shapes)
    };
    let (qkv, table) = (Shape::new(20, 24), Shape::new(17, 24));
    let all = PositionTables::ALL;
    assert!(plan(2, all, &[qkv, table, table, table]).is_ok());
    assert!(plan(3, all, &[qkv, table, table, table]).is_err());
    assert!(plan(0, all, &[qkv, table, table, table]).is_err());
    assert!(plan(2, all, &[qkv, table, table]).is_err());
    assert!(plan(2, all, &[Shape::new(21, 24), table, table, table]).is_err());
    assert!(plan(2, all, &[qkv, table, table, Shape::new(18, 24)]).is_err());
    let short = Shape::new(15, 24);
    let message = plan(2, all, &[qkv, short, short, short])
        .unwrap_err()
        .to_string();
    assert!(message.contains("16 bins"), "{message}");
}
