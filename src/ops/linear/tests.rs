use super::*;
use crate::graph::check::{Check, Round};

fn naive(x: &[Vec<f64>], [n, i, o]: [usize; 3], bias: bool, residual: bool) -> Vec<f64> {
    let mut y = vec![0.0; n * o];
    for row in 0..n {
        for out in 0..o {
            let dot: f64 = (0..i).map(|k| x[0][row * i + k] * x[1][out * i + k]).sum();
            let shift = if bias { x[2][out] } else { 0.0 };
            let extra = if residual {
                x[x.len() - 1][row * o + out]
            } else {
                0.0
            };
            y[row * o + out] = dot + shift + extra;
        }
    }
    y
}

#[test]
fn every_form_matches_naive() {
    for [n, i, o] in [
        [0, 3, 4],
        [1, 5, 2],
        [37, 6, 9],
        [2100, 7, 5],
        [300, 48, 13],
        [4133, 5, 3],
    ] {
        let dims = [n, i, o];
        Check::new(Linear::new(false))
            .input(n, i)
            .input(o, i)
            .run(|x| vec![naive(x, dims, false, false)]);
        Check::new(Linear::new(true))
            .input(n, i)
            .input(o, i)
            .input(1, o)
            .run(|x| vec![naive(x, dims, true, false)]);
    }
    let relu = |y: Vec<f64>| vec![y.into_iter().map(|y| y.max(0.0)).collect()];
    let dims = [37, 6, 9];
    Check::new(Linear::with_relu(true))
        .input(37, 6)
        .input(9, 6)
        .input(1, 9)
        .run(|x| relu(naive(x, dims, true, false)));
    Check::new(Linear::with_add_relu(true))
        .input(37, 6)
        .input(9, 6)
        .input(1, 9)
        .input(37, 9)
        .run(|x| relu(naive(x, dims, true, true)));
}

/// What a sum of 384 numbers may lose, and one of 2048 in half precision, whose tensor cores take fewer steps. Plain f32,
/// number after number, loses 4e-7 of the first; a tensor core that goes on with its own sum, which it cuts off at every
/// step, 2e-6 and more of both.
const LONG_LIMIT: f64 = 1e-6;

#[test]
fn long_sums_are_as_exact_as_in_plain_f32() {
    // Many numbers forward, then in the gradient of the weight.
    for [n, i, o] in [[64, 384, 40], [1500, 24, 24]] {
        Check::new(Linear::new(false))
            .input(n, i)
            .input(o, i)
            .limits(LONG_LIMIT, LONG_LIMIT)
            .run(|x| vec![naive(x, [n, i, o], false, false)]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_named() {
    let error = Linear::new(true).plan(&[Shape::new(2, 3), Shape::new(4, 5), Shape::new(1, 4)]);
    assert!(error.unwrap_err().to_string().contains("[4, 5]"));
}

/// x Wᵀ + b of rounded operands, rectified.
fn half(round: Round, x: &[Vec<f64>], dims: [usize; 3]) -> Vec<Vec<f64>> {
    let rounded = |v: &Vec<f64>| v.iter().map(|x| round(*x)).collect();
    let y = naive(
        &[rounded(&x[0]), rounded(&x[1]), x[2].clone()],
        dims,
        true,
        false,
    );
    vec![y.iter().map(|y| y.max(0.0)).collect()]
}

fn half_backward(
    round: Round,
    x: &[Vec<f64>],
    [n, i, o]: [usize; 3],
    d_y: &[f64],
) -> Vec<Vec<f64>> {
    let y = half(round, x, [n, i, o]).remove(0);
    let mut d = [vec![0.0; n * i], vec![0.0; o * i], vec![0.0; o]];
    for (at, d_z) in d_y.iter().enumerate().filter(|(at, _)| y[*at] > 0.0) {
        let (row, out) = (at / o, at % o);
        d[2][out] += d_z;
        for k in 0..i {
            d[0][row * i + k] += round(*d_z) * round(x[1][out * i + k]);
            d[1][out * i + k] += round(*d_z) * round(x[0][row * i + k]);
        }
    }
    d.to_vec()
}

#[test]
fn half_precision_rounds_the_operands_of_products() {
    for dims in [[37, 6, 9], [300, 48, 13], [70, 130, 66], [2100, 7, 5]] {
        let [n, i, o] = dims;
        Check::new(Linear::with_relu(true))
            .input(n, i)
            .input(o, i)
            .input(1, o)
            .run_half(
                |round, x| half(round, x, dims),
                |round, x, d_y| half_backward(round, x, dims, d_y),
            );
    }
}

#[test]
fn long_sums_of_half_precision_are_as_exact() {
    let dims = [24, 2048, 16];
    Check::new(Linear::with_relu(true))
        .input(24, 2048)
        .input(16, 2048)
        .input(1, 16)
        .limits(LONG_LIMIT, LONG_LIMIT)
        .run_half(
            |round, x| half(round, x, dims),
            |round, x, d_y| half_backward(round, x, dims, d_y),
        );
}
