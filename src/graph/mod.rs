//! Recording, planning and running ops.
