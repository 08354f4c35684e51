use super::*;
use crate::geometry::shapes;

fn example() -> Hierarchy {
    let (coord, offsets) = shapes::batch(&[shapes::uniform(400, 1), shapes::uniform(7, 2)]);
    Hierarchy::new(coord, offsets).unwrap()
}

#[test]
fn equal_requests_share_one_result() {
    let mut geometry = example();
    let (coarse, first) = geometry.pool(0, 0.3).unwrap();
    let (again, second) = geometry.pool(0, 0.3).unwrap();
    assert!(coarse == again && Arc::ptr_eq(&first, &second));
    let (other, _) = geometry.pool(0, 0.5).unwrap();
    assert_ne!(other, coarse);
    assert_eq!(geometry.levels(), 3);
    let a = geometry.neighbors(coarse, 16).unwrap();
    let b = geometry.neighbors(coarse, 16).unwrap();
    let c = geometry.neighbors(coarse, 8).unwrap();
    assert!(Arc::ptr_eq(&a, &b) && c.k == 8);
    let a = geometry.interpolation(0, coarse).unwrap();
    let b = geometry.interpolation(0, coarse).unwrap();
    assert!(Arc::ptr_eq(&a, &b));
    assert_eq!(
        geometry.interpolation(0, other).unwrap().points,
        geometry.coord(other).len()
    );
}

#[test]
fn results_equal_those_of_the_single_steps() {
    let mut geometry = example();
    let (coarse, partition) = geometry.pool(0, 0.3).unwrap();
    assert_eq!(*geometry.coord(coarse), partition.coord);
    assert_eq!(geometry.offsets(coarse), partition.offsets);
    let table = geometry.neighbors(coarse, 16).unwrap();
    let alone = Neighbors::self_query(&partition.coord, &partition.offsets, 16).unwrap();
    assert_eq!(table.index, alone.index);
    let stencil = geometry.interpolation(0, coarse).unwrap();
    let (coord, offsets) = (geometry.coord(0), geometry.offsets(0));
    let alone = Interpolation::new(coord, offsets, &partition.coord, &partition.offsets).unwrap();
    assert_eq!(stencil.index, alone.index);
    assert_eq!(stencil.weight, alone.weight);
}

#[test]
fn fewer_samples_are_the_beginning_of_more() {
    let mut geometry = example();
    let more = geometry.farthest(0, &[100, 5]).unwrap();
    let fewer = geometry.farthest(0, &[40, 2]).unwrap();
    assert_eq!(fewer[..], [&more[..40], &more[100..102]].concat());
    let alone = example().farthest(0, &[40, 2]).unwrap();
    assert_eq!(fewer, alone);
    let again = geometry.farthest(0, &[40, 6]).unwrap();
    assert_eq!((&again[..40], again.len()), (&fewer[..40], 46));
}

#[test]
fn thinned_levels_keep_the_order_of_sampling() {
    let mut geometry = example();
    let rows = geometry.farthest(0, &[30, 3]).unwrap();
    let coarse = geometry.thin(0, &[30, 3]).unwrap();
    assert_eq!(geometry.offsets(coarse), [0, 30, 33]);
    for (point, &row) in geometry.coord(coarse).iter().zip(rows.iter()) {
        assert_eq!(*point, geometry.coord(0)[row as usize]);
    }
    let table = geometry.neighbors_between(coarse, 0, 4).unwrap();
    let nearest: Vec<u32> = table.index.iter().step_by(4).copied().collect();
    assert_eq!(nearest, rows[..], "a sample's nearest point is itself");
}

#[test]
fn bad_requests_are_errors() {
    let mut geometry = example();
    assert!(geometry.farthest(1, &[1, 1]).is_err());
    assert!(geometry.thin(0, &[1]).is_err());
    assert!(geometry.neighbors_between(0, 1, 3).is_err());
    assert!(geometry.ball(0, 0.0, 3, Choice::First).is_err());
    assert!(geometry.neighbors(1, 16).is_err());
    assert!(geometry.pool(1, 0.1).is_err());
    assert!(geometry.interpolation(0, 1).is_err());
    assert!(geometry.neighbors(0, 0).is_err());
    assert!(geometry.pool(0, -1.0).is_err());
    assert!(Hierarchy::new(vec![[0.0, f32::NAN, 0.0]], vec![0, 1]).is_err());
    assert!(Hierarchy::new(vec![[0.0; 3]], vec![0, 2]).is_err());
}
