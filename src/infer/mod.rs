//! Segmenting whole scans: voxelise, run, vote, map back to every original point.
