use super::*;

const GOOD: &str = include_str!("../example.toml");

/// The file that explains the keys, and with each of its alternatives in the place of what stands before it.
#[test]
fn the_file_with_every_key_is_a_configuration_with_every_key() {
    parse(KEYS).unwrap();
    let table = |name: &str| {
        let start = KEYS.find(&format!("\n[{name}]")).unwrap();
        let end = KEYS[start + 2..].find("\n[").unwrap();
        &KEYS[start..start + 2 + end]
    };
    for name in ["optimizer", "schedule"] {
        let own = table(name);
        let alternatives: String = own
            .lines()
            .filter_map(|line| line.strip_prefix("#| "))
            .map(|line| format!("{line}\n"))
            .collect();
        for one in alternatives.split("kind = ").skip(1) {
            let new = format!("\n[{name}]\nkind = {one}");
            parse(&KEYS.replacen(own, &new, 1)).unwrap();
        }
    }
    parse(&KEYS.replacen("steps = 800", "epochs = 1", 1)).unwrap();

    // An unknown key makes the reader list those that it knows.
    let heads = KEYS.match_indices("\n[").map(|(at, _)| at + 1);
    let mut tables = 0;
    for at in heads {
        let end = at + KEYS[at..].find('\n').unwrap();
        if KEYS[at..].starts_with("[notes]") || KEYS[at..].starts_with("[[augment]]") {
            continue;
        }
        let text = format!("{}\nstrange = 1{}", &KEYS[..end], &KEYS[end..]);
        let error = parse(&text).unwrap_err().to_string();
        let known: Vec<&str> = error.split('`').skip(3).step_by(2).collect();
        assert!(known.len() >= 2, "{error}");
        for key in known {
            let follows = ["in_channels", "num_classes", "heads"].contains(&key);
            assert!(
                follows || KEYS.contains(&format!("{key} =")) || KEYS.contains(&format!("[{key}]")),
                "{key} is not explained"
            );
        }
        tables += 1;
    }
    assert_eq!(tables, 10);
    for kind in [
        "multi_step",
        "cosine",
        "one_cycle",
        "sgd",
        "adamw",
        "epochs",
    ] {
        assert!(KEYS.contains(kind), "{kind} is not explained");
    }
}

fn parse(text: &str) -> Result<Config> {
    Config::parse(text, Path::new("c.toml"))
}

#[test]
fn a_whole_file_is_read() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.network["in_channels"], 4);
    assert_eq!(config.network["num_classes"], 2);
    assert_eq!(config.augment.len(), 2);
    assert_eq!(config.steps(100), 60);
}

#[test]
fn every_fault_names_its_key() {
    for (old, new, part) in [
        ("batch = 2", "batch = 0", "train.batch"),
        ("batch = 2", "batches = 2", "batches"),
        ("steps = 60", "", "train.steps"),
        ("steps = 60", "steps = 60\nepochs = 2", "train.steps"),
        ("steps = 60", "steps = \"many\"", "steps"),
        ("lr = 0.01", "lr = -1", "optimizer.lr"),
        ("kind = \"adamw\"", "kind = \"adam\"", "adam"),
        ("lovasz = 0.5", "lovasz = -0.5", "loss"),
        (
            "class_weights = [1, 2]",
            "class_weights = [1]",
            "loss.class_weights",
        ),
        ("voxel_size = 0.1", "voxel_size = 0", "voxel_size"),
        ("voxel_size = 0.1", "voxel_size = 0.1\nvoxel = 1", "voxel"),
        (
            "range = [0.9, 1.1]",
            "range = [1.1, 0.9]",
            "augment.scale.range",
        ),
        ("kind = \"scale\"", "kind = \"scales\"", "scales"),
        ("train = [\"a.ply\"]", "train = []", "data.train"),
        (
            "train = [\"a.ply\"]",
            "train = [\"a.ply\"]\nfolder = 1",
            "folder",
        ),
        ("ema = 0.9", "ema = 1.0", "train.ema"),
        ("ema = 0.9", "batch_points = 0", "train.batch_points"),
        ("[network]", "[network]\nin_channels = 7", "in_channels"),
        ("[network]", "[networks]", "networks"),
    ] {
        assert!(GOOD.contains(old), "{old}");
        let error = parse(&GOOD.replacen(old, new, 1)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(part), "{new:?}: {error}");
    }
}

#[test]
fn configurations_of_the_repository_make_their_networks() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/configs");
    let mut parameters = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let config = Config::read(&path).unwrap();
        let model = crate::models::Model::new(&config.network, crate::device::Device::Cpu, 0);
        let layout = model.unwrap().params.layout().clone();
        crate::optim::check_groups(&config.groups, &layout).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        parameters.insert(name, layout.weight_count());
    }
    assert_eq!(parameters["s3dis_stratified"], 8_022_970);
    assert_eq!(parameters["scannet_stratified"], 18_798_662);
    assert_eq!(parameters["s3dis_ptv2"], 3_908_641);
    assert_eq!(parameters["scannet_ptv2"], 11_323_948);
}

#[test]
fn epochs_count_clouds() {
    let config = parse(&GOOD.replacen("steps = 60", "epochs = 3", 1)).unwrap();
    assert_eq!(config.steps(5), 8);
}

#[test]
fn a_text_that_is_no_toml_names_its_line() {
    let error = parse("[network]\ntype = \n").unwrap_err().to_string();
    assert!(error.contains("c.toml: line 2"), "{error}");
}
