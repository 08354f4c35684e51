use super::*;
use crate::geometry::{MISSING, golden::Golden, shapes};
use std::time::Instant;

/// Everything against everything, by sorting.
fn naive(
    points: &[[f32; 3]],
    offsets: &[usize],
    queries: &[[f32; 3]],
    ends: &[usize],
    k: usize,
) -> Knn {
    let (mut index, mut squared) = (Vec::new(), Vec::new());
    for element in 0..offsets.len() - 1 {
        for q in &queries[ends[element]..ends[element + 1]] {
            let mut all: Vec<(f32, u32)> = (offsets[element]..offsets[element + 1])
                .map(|row| {
                    let [dx, dy, dz] = std::array::from_fn(|axis| points[row][axis] - q[axis]);
                    ((dx * dx + dy * dy) + dz * dz, row as u32)
                })
                .filter(|(d2, _)| *d2 < 1e10)
                .collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
            all.resize(all.len().max(k), (1e10, MISSING));
            index.extend(all[..k].iter().map(|found| found.1));
            squared.extend(all[..k].iter().map(|found| found.0));
        }
    }
    Knn { k, index, squared }
}

fn threads(count: usize) -> rayon::ThreadPool {
    let builder = rayon::ThreadPoolBuilder::new().num_threads(count);
    builder.build().unwrap()
}

#[test]
fn neighbors_match_the_official_code() {
    let golden = Golden::open("op_knn");
    for (case, k, ties) in [
        ("self", 16, false),
        ("query", 3, false),
        ("pad", 8, false),
        ("lattice", 16, true),
    ] {
        let name = |part: &str| format!("{case}.{part}");
        let points = golden.points(&name("coord"));
        let offsets = golden.offsets(&name("offset"));
        let (queries, query_offsets) = match case {
            "query" => (
                golden.points("query.new_coord"),
                golden.offsets("query.new_offset"),
            ),
            _ => (points.clone(), offsets.clone()),
        };
        let found = knn(&points, &offsets, &queries, &query_offsets, k).unwrap();
        let distances = found.distances();
        let expected = golden.f32(&name("dist"));
        assert_eq!(distances.len(), expected.len(), "{case}");
        for (a, b) in distances.iter().zip(&expected) {
            assert!((a - b).abs() <= 1e-6 * b, "{case}: {a} instead of {b}");
        }
        if !ties {
            let rows: Vec<i32> = found.index.iter().map(|row| *row as i32).collect();
            assert_eq!(rows, golden.i32(&name("idx")), "{case}");
        }
    }
}

#[test]
fn relative_positions_match_the_official_code() {
    let golden = Golden::open("op_grouping");
    let coord = golden.points("coord");
    let rows: Vec<u32> = golden.i32("idx").iter().map(|row| *row as u32).collect();
    let k = 16;
    let table = crate::geometry::Neighbors::from_index(k, &rows, &coord, &coord).unwrap();
    let out = golden.f32("out_xyz");
    let width = out.len() / rows.len();
    for slot in 0..rows.len() {
        for axis in 0..3 {
            assert_eq!(table.delta[axis][slot], out[slot * width + axis]);
        }
    }
}

#[test]
fn neighbors_match_naive() {
    let empty = Vec::new();
    for clouds in [
        vec![
            shapes::uniform(1500, 1),
            empty.clone(),
            shapes::uniform(1, 2),
            shapes::uniform(40, 3),
        ],
        vec![shapes::clustered(2000, 4)],
        vec![shapes::lattice(11)],
        vec![
            shapes::duplicated(1500, 40, 5),
            shapes::duplicated(700, 300, 6),
        ],
        vec![shapes::lidar(2500, 7)],
        vec![shapes::room(2500, 8)],
        vec![
            shapes::uniform(900, 9)
                .iter()
                .map(|p| p.map(|x| x * 30.0 + 1e6))
                .collect(),
        ],
        vec![
            shapes::uniform(50, 10)
                .iter()
                .map(|p| p.map(|x| x * 1e6))
                .collect(),
        ],
        vec![empty],
    ] {
        let (coord, offsets) = shapes::batch(&clouds);
        for k in [1, 3, 16, 48, 128] {
            let found = knn(&coord, &offsets, &coord, &offsets, k).unwrap();
            assert_eq!(
                found,
                naive(&coord, &offsets, &coord, &offsets, k),
                "K = {k}"
            );
        }
    }
}

#[test]
fn other_query_sets_match_naive() {
    let points = [
        shapes::room(1200, 1),
        shapes::uniform(4, 2),
        shapes::lidar(900, 3),
        Vec::new(),
    ];
    let queries = [
        shapes::uniform(700, 4),
        shapes::uniform(90, 5),
        shapes::clustered(300, 6),
        shapes::lattice(2),
    ];
    let (points, offsets) = shapes::batch(&points);
    let (queries, ends) = shapes::batch(&queries);
    for k in [1, 3, 20] {
        let found = knn(&points, &offsets, &queries, &ends, k).unwrap();
        assert_eq!(
            found,
            naive(&points, &offsets, &queries, &ends, k),
            "K = {k}"
        );
    }
}

#[test]
fn distances_match_kiddo() {
    use kiddo::{ImmutableKdTree, SquaredEuclidean};
    for cloud in [
        shapes::lidar(20_000, 1),
        shapes::room(20_000, 2),
        shapes::clustered(20_000, 3),
    ] {
        let ends = [0, cloud.len()];
        let found = knn(&cloud, &ends, &cloud, &ends, 16).unwrap();
        let tree: ImmutableKdTree<f32, 3> = ImmutableKdTree::new_from_slice(&cloud).unwrap();
        for (row, query) in cloud.iter().enumerate().step_by(7) {
            let nearest = std::num::NonZero::new(16).unwrap();
            let search = tree
                .query(query)
                .nearest_n::<SquaredEuclidean<f32>>(nearest);
            let expected = search.execute();
            for (slot, other) in expected.iter().enumerate() {
                let d2 = found.squared[row * 16 + slot];
                assert!((d2 - other.distance).abs() <= 1e-6 * d2, "{row} {slot}");
            }
        }
    }
}

#[test]
fn thread_count_does_not_matter() {
    let (coord, offsets) = shapes::batch(&[shapes::lidar(9000, 1), shapes::room(9000, 2)]);
    let run = |count| threads(count).install(|| knn(&coord, &offsets, &coord, &offsets, 16));
    assert_eq!(run(1).unwrap(), run(2).unwrap());
}

#[test]
fn coinciding_points_are_not_quadratic() {
    let start = Instant::now();
    let mut coord = vec![[1.0, 2.0, 3.0]; 50_000];
    coord.push([1.5, 2.0, 3.0]);
    let ends = [0, coord.len()];
    for k in [16, 128] {
        let found = knn(&coord, &ends, &coord, &ends, k).unwrap();
        let lowest: Vec<u32> = (0..k as u32).collect();
        assert!(found.index[..50_000 * k].chunks(k).all(|row| row == lowest));
        assert_eq!(found.index[50_000 * k], 50_000);
    }
    // Quadratic work would take minutes in this build; the bound leaves room for a busy machine.
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn a_dense_spot_in_a_wide_cloud_is_not_quadratic() {
    let start = Instant::now();
    let dense = shapes::uniform(40_000, 1)
        .into_iter()
        .map(|p| p.map(|x| x * 1e-5));
    let wide = shapes::uniform(10_000, 2)
        .into_iter()
        .map(|p| p.map(|x| (x - 0.5) * 4e4));
    let coord: Vec<[f32; 3]> = dense.chain(wide).collect();
    let ends = [0, coord.len()];
    let found = knn(&coord, &ends, &coord, &ends, 16).unwrap();
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    for row in (0..coord.len()).step_by(997) {
        let one = naive(&coord, &ends, &coord[row..row + 1], &[0, 1], 16);
        assert_eq!(found.index[row * 16..][..16], one.index);
    }
}

#[test]
fn far_points_are_never_found() {
    let coord = [
        [0.0; 3],
        [99_999.0, 0.0, 0.0],
        [1e5, 0.0, 0.0],
        [3e38, 3e38, 3e38],
    ];
    let found = knn(&coord, &[0, 4], &coord[..1], &[0, 1], 4).unwrap();
    assert_eq!(found.index, [0, 1, MISSING, MISSING]);
    assert_eq!(found.distances(), [0.0, 99_999.0, 1e5, 1e5]);
}

#[test]
fn coordinates_that_are_not_finite_do_not_panic() {
    for strange in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut coord = shapes::uniform(300, 1);
        for row in (0..300).step_by(3) {
            coord[row] = [strange, 0.5, strange];
        }
        let found = knn(&coord, &[0, 300], &coord, &[0, 300], 16).unwrap();
        assert!(found.index[..16].iter().all(|row| *row == MISSING));
        assert_eq!(found.index[16], 1);
        let all = vec![[strange; 3]; 400];
        let found = knn(&all, &[0, 400], &all, &[0, 400], 2).unwrap();
        assert!(found.index.iter().all(|row| *row == MISSING));
    }
}

#[test]
fn bad_requests_are_errors() {
    let coord = [[0.0; 3]; 4];
    assert!(knn(&coord, &[0, 4], &coord, &[0, 4], 0).is_err());
    let message = knn(&coord, &[0, 4], &coord, &[0, 4], 129).unwrap_err();
    assert!(message.to_string().contains("129 is not in 1..=128"));
    assert!(knn(&coord, &[0, 4], &coord, &[0, 2, 4], 1).is_err());
    assert!(knn(&coord, &[0, 3], &coord, &[0, 4], 1).is_err());
}
