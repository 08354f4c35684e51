use super::super::truth::{LabelSearch, truth};
use super::*;
use crate::cloud::{Column, PointCloud};
use crate::infer::{Codes, LabelMap};
use crate::weights::{ClassInfo, InputSpec};

pub fn metadata() -> ModelMetadata {
    let class = |name: &str, code: u32, aliases: &[u32]| ClassInfo {
        name: name.into(),
        code: Some(code),
        aliases: aliases.to_vec(),
    };
    let input = InputSpec {
        voxel_size: 0.4,
        features: Vec::new(),
        crop_points: None,
        frame: Default::default(),
    };
    let classes = vec![
        class("ground", 2, &[]),
        class("vegetation", 5, &[3, 4]),
        class("building", 6, &[]),
    ];
    ModelMetadata::new(serde_json::json!({}), classes, input)
}

/// The codes of the model itself.
fn own() -> Codes {
    LabelMap::default().for_classes(&metadata(), 0).unwrap()
}

fn labelled(codes: &[u8]) -> PointCloud {
    let mut cloud = PointCloud {
        coord: vec![[0.0; 3]; codes.len()],
        attributes: Vec::new(),
    };
    cloud
        .set_attribute("classification", Column::U8(codes.to_vec()))
        .unwrap();
    cloud
}

#[test]
fn iou_counts_labelled_points_only() {
    let cloud = labelled(&[2, 2, 3, 5, 1, 1]);
    let truth = truth(&cloud, &metadata(), &own(), None).unwrap().unwrap();
    assert_eq!(truth.class, [0, 0, 1, 1, -1, -1]);
    assert_eq!(truth.unknown, [(1, 2)].into());
    let prediction = Prediction {
        class: vec![0, 1, 1, 1, 2, -1],
        confidence: vec![0.5, 1.0, 1.0, 0.4, 0.9, 0.0],
        skipped: 1,
        ..Prediction::default()
    };
    let report = Report::new(&metadata(), &prediction, Some(&truth));
    let iou: Vec<_> = report.classes.iter().map(|c| c.iou).collect();
    for (found, expected) in iou.iter().zip([Some(0.5), Some(2.0 / 3.0), None]) {
        assert_eq!(found.is_some(), expected.is_some());
        assert!((found.unwrap_or(0.0) - expected.unwrap_or(0.0)).abs() < 1e-9);
    }
    let comparison = report.comparison.as_ref().unwrap();
    assert_eq!((comparison.labelled_points, comparison.classes), (4, 2));
    assert!((comparison.miou - 7.0 / 12.0).abs() < 1e-9);
    assert!((comparison.accuracy - 0.75).abs() < 1e-9);
    assert_eq!(
        report.classes[1].confidence,
        Some((1.0 + 1.0 + f64::from(0.4f32)) / 3.0)
    );
    let text = report.text();
    assert!(
        text.contains("mIoU 0.583") && text.contains("1 (2 points)"),
        "{text}"
    );
}

#[test]
fn a_long_list_of_unknown_codes_is_cut_for_people() {
    let text = |codes: i64| {
        let unknown_codes = (0..codes).map(|code| (code, 1)).collect();
        let report = Report {
            unknown_codes,
            ..Report::default()
        };
        report.text()
    };
    assert!(text(20).contains("19 (1 points) (--map"), "{}", text(20));
    let cut = text(300);
    assert!(cut.contains("19 (1 points), and 280 more (--map"), "{cut}");
    assert!(!cut.contains("20 ("), "{cut}");
}

#[test]
fn labels_of_a_scan_in_pieces_are_those_of_the_whole() {
    let own = own();
    for (codes, asked) in [
        (&[2u8, 2, 3, 5, 1, 1][..], None),
        (&[2, 2, 2, 2], None),
        (&[2, 2, 2, 2], Some("classification")),
        (&[9, 8, 7, 9], None),
    ] {
        let whole = labelled(codes);
        let expected = truth(&whole, &metadata(), &own, asked).unwrap();
        let mut search = LabelSearch::new(asked);
        let pieces = [labelled(&codes[..2]), labelled(&codes[2..])];
        pieces.iter().for_each(|piece| search.see(piece));
        let name = search.found(&whole).unwrap();
        let class: Vec<i32> = (0..codes.len() as i32).map(|i| i % 3).collect();
        let mut tally = Tally::new(3);
        for (piece, class) in pieces.iter().zip([&class[..2], &class[2..]]) {
            let truth = name.map(|n| Truth::new(&piece.labels_of(n).unwrap(), &metadata(), &own));
            tally.add(class, &vec![0.5; class.len()], truth.as_ref());
        }
        let prediction = Prediction {
            confidence: vec![0.5; class.len()],
            class,
            ..Prediction::default()
        };
        let expected = Report::new(&metadata(), &prediction, expected.as_ref());
        let text = |report: &Report| serde_json::to_string(report).unwrap();
        assert_eq!(
            text(&tally.report(&metadata())),
            text(&expected),
            "{codes:?}"
        );
    }
    let mut search = LabelSearch::new(Some("none"));
    search.see(&labelled(&[1]));
    let fault = search.found(&labelled(&[])).unwrap_err().to_string();
    assert!(fault.contains("it has classification"), "{fault}");
}

#[test]
fn scans_that_were_never_classified_are_not_compared() {
    for codes in [&[2u8, 2, 2][..], &[1, 0, 1]] {
        assert!(
            truth(&labelled(codes), &metadata(), &own(), None)
                .unwrap()
                .is_none()
        );
    }
    assert!(
        truth(&labelled(&[2]), &metadata(), &own(), Some("classification"))
            .unwrap()
            .is_some()
    );
    let fault = truth(&labelled(&[2]), &metadata(), &own(), Some("no")).unwrap_err();
    assert!(
        fault.to_string().contains("it has classification"),
        "{fault}"
    );
}
