use super::*;
use crate::graph::check::{Check, spread};
use crate::ops::gelu::tests::normal_f64;

fn naive(x: &[Vec<f64>], [inputs, hidden, outputs]: [usize; 3]) -> Vec<Vec<f64>> {
    let layer = |x: &[f64], w: &[f64], b: &[f64]| -> Vec<f64> {
        let dot = |w: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        w.chunks(x.len()).zip(b).map(|(w, b)| dot(w) + b).collect()
    };
    let row = |row: &[f64]| {
        let h = layer(row, &x[1], &x[2])
            .into_iter()
            .map(|z| z * normal_f64(z));
        let h: Vec<f64> = h.collect();
        assert_eq!((h.len(), x[4].len()), (hidden, outputs));
        layer(&h, &x[3], &x[4])
    };
    vec![x[0].chunks(inputs).flat_map(row).collect()]
}

#[test]
fn matches_naive() {
    // no row; few; several chunks; so many that gradients are added up by parts, one of them of several chunks
    for (rows, [i, h, o]) in [
        (0, [3, 5, 4]),
        (1, [3, 5, 4]),
        (37, [12, 48, 12]),
        (300, [5, 17, 3]),
        (3200, [2, 4, 3]),
    ] {
        let sizes = [i, h, o];
        let few = |shape: Shape, seed| {
            let scale = 1.0 / (shape.cols as f32).sqrt();
            spread(shape, seed).iter().map(|x| scale * x).collect()
        };
        let (w1, w2) = (Shape::new(h, i), Shape::new(o, h));
        Check::new(Perceptron)
            .input(rows, i)
            .input_values(w1, few(w1, 2))
            .input(1, h)
            .input_values(w2, few(w2, 3))
            .input(1, o)
            .run(|x| naive(x, sizes));
    }
}

#[test]
fn equals_the_three_ops_it_stands_for() {
    use crate::ops::reference::run;
    use crate::ops::{Gelu, Linear};
    let shapes = [(200, 24), (96, 24), (1, 96), (24, 96), (1, 24)];
    let shapes = shapes.map(|(rows, cols)| Shape::new(rows, cols));
    let values: Vec<Vec<f32>> = shapes.iter().zip(1..).map(|(s, n)| spread(*s, n)).collect();
    let given = |i: usize| (shapes[i], values[i].clone());
    let d_y = spread(Shape::new(200, 24), 9);
    let (whole, gradients) = run(Perceptron, &[0, 1, 2, 3, 4].map(given), d_y.clone());
    let wide = Shape::new(200, 96);
    let nothing = vec![0.0; wide.len()];
    let (z, _) = run(Linear::new(true), &[0, 1, 2].map(given), nothing.clone());
    let (h, _) = run(Gelu, &[(wide, z[0].clone())], nothing);
    let second = [(wide, h[0].clone()), given(3), given(4)];
    let (y, d_second) = run(Linear::new(true), &second, d_y);
    let (_, d_gelu) = run(Gelu, &[(wide, z[0].clone())], d_second[0].clone().unwrap());
    let d_z = d_gelu[0].clone().unwrap();
    let (_, d_first) = run(Linear::new(true), &[0, 1, 2].map(given), d_z);
    let parts = d_first.into_iter().chain(d_second.into_iter().skip(1));
    let close = |a: &[f32], b: &[f32]| {
        let largest = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let worst = a
            .iter()
            .zip(b)
            .fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(
            a.len() == b.len() && worst <= 2e-6 * largest,
            "{worst:e} of {largest}"
        );
    };
    close(&whole[0], &y[0]);
    for (whole, part) in gradients.iter().zip(parts) {
        close(whole.as_ref().unwrap(), &part.unwrap());
    }
}

#[test]
fn shapes_that_differ_are_refused() {
    let right = [(9, 3), (5, 3), (1, 5), (4, 5), (1, 4)].map(|(r, c)| Shape::new(r, c));
    assert!(Perceptron.plan(&right).is_ok());
    assert!(Perceptron.plan(&right[..4]).is_err());
    for i in 0..5 {
        let mut wrong = right;
        wrong[i].cols += 1;
        assert!(Perceptron.plan(&wrong).is_err(), "input {i}");
    }
}
