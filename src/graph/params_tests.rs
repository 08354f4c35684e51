use super::*;

fn layout() -> Arc<Layout> {
    let mut layout = Layout::default();
    let mut root = Scope::root(&mut layout);
    let mut fc = root.child("fc");
    fc.weight("weight", &[3, 5], Init::Uniform(0.5));
    fc.weight("bias", &[3], Init::Constant(0.25));
    fc.counter("seen");
    Arc::new(layout)
}

#[test]
fn names_shapes_and_values_follow_registration() {
    let layout = layout();
    assert_eq!(layout.weight_count(), 18);
    assert_eq!(layout.specs()[0].shape(), Shape::new(3, 5));
    let mut p = Params::initial(layout.clone(), Device::Cpu, 1).unwrap();
    let w = layout.find("fc.weight").unwrap();
    assert!(p.get(w).iter().all(|x| x.abs() <= 0.5 && *x != 0.0));
    assert!(p.set(w, &[0.0; 14]).is_err());
    p.set(w, &[1.0; 15]).unwrap();
    assert_eq!(p.get(w), [1.0; 15]);
    assert_eq!(p.get(layout.find("fc.bias").unwrap()), [0.25; 3]);
}

#[test]
fn rotated_points_keep_their_distances() {
    static POINTS: [[f32; 3]; 4] = [[0.0; 3], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, -3.0]];
    let points = |seed: u64, noise: f32| {
        let mut layout = Layout::default();
        let init = Init::Rotated {
            points: &POINTS,
            scale: 0.5,
            noise,
        };
        let id = Scope::root(&mut layout).fixed("points", &[4, 3], init);
        assert_eq!((layout.weight_count(), layout.trained().len()), (12, 0));
        let params = Params::initial(layout.into(), Device::Cpu, seed).unwrap();
        params.get(id).as_chunks::<3>().0.to_vec()
    };
    let distance = |a: [f32; 3], b: [f32; 3]| {
        let d = |axis: usize| f64::from(a[axis] - b[axis]);
        (d(0).powi(2) + d(1).powi(2) + d(2).powi(2)).sqrt()
    };
    let found = points(7, 0.0);
    for (i, a) in POINTS.iter().enumerate() {
        for (j, b) in POINTS.iter().enumerate() {
            let error = (distance(found[i], found[j]) - 0.5 * distance(*a, *b)).abs();
            assert!(error < 1e-6, "{i} {j}: {error}");
        }
    }
    assert_ne!(found, points(8, 0.0));
    let moved = points(7, 0.01);
    let far = (0..4)
        .map(|i| distance(found[i], moved[i]))
        .fold(0.0, f64::max);
    assert!(far > 1e-3 && far < 0.1, "{far}");
}

#[test]
fn normal_values_have_their_deviation() {
    let mut layout = Layout::default();
    let id = Scope::root(&mut layout).weight("w", &[100, 100], Init::Normal(0.02));
    let params = Params::initial(layout.into(), Device::Cpu, 3).unwrap();
    let values = params.get(id);
    let mean = values.iter().sum::<f32>() / 1e4;
    let square = values.iter().map(|x| x * x).sum::<f32>() / 1e4;
    assert!(mean.abs() < 1e-3 && (square.sqrt() - 0.02).abs() < 1e-3);
}

#[test]
fn derived_values_are_computed_again_after_a_change() {
    let mut p = Params::initial(layout(), Device::Cpu, 1).unwrap();
    let w = p.layout().find("fc.bias").unwrap();
    let twice = |p: &Params| p.derived("twice", |p| vec![2.0 * p.get(w)[0]])[0];
    assert_eq!(twice(&p), 0.5);
    p.set(w, &[1.0; 3]).unwrap();
    assert_eq!(twice(&p), 2.0);
}
