//! Products of tables by the library gemm, in parts on the threads of the pool or on one thread.

// gemm takes pointers, and a product is written where no number need have been.
#![allow(unsafe_code)]

use ndarray::{ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use std::mem::MaybeUninit;
use std::sync::Once;

/// A table to read, row-major or transposed.
pub(crate) type Table<'a> = ArrayView2<'a, f32>;

/// Two tables that are multiplied.
pub(crate) type Pair<'a> = (Table<'a>, Table<'a>);

/// Data as a table of `rows` rows.
pub(crate) fn table(data: &[f32], rows: usize) -> Table<'_> {
    let shape = (rows, data.len() / rows.max(1));
    ArrayView2::from_shape(shape, data).expect("no more than there is")
}

/// Data to write, as a table of `rows` rows.
pub(crate) fn table_mut<T>(data: &mut [T], rows: usize) -> ArrayViewMut2<'_, T> {
    let shape = (rows, data.len() / rows.max(1));
    ArrayViewMut2::from_shape(shape, data).expect("no more than there is")
}

/// The numbers of a row that lies in one piece.
pub(crate) fn row<'a>(row: ArrayView1<'a, f32>) -> &'a [f32] {
    row.to_slice().expect("the table is not transposed")
}

/// `scale a b`, row after row.
pub(crate) fn product_of(pair: Pair, scale: f32) -> Vec<f32> {
    sum_of_products(&[pair], scale)
}

/// `scale sum_i a_i b_i` of one pair or more, row after row.
pub(crate) fn sum_of_products(pairs: &[Pair], scale: f32) -> Vec<f32> {
    let (rows, columns) = (pairs[0].0.nrows(), pairs[0].1.ncols());
    written(rows, columns, |sum| in_pool(sum, pairs, scale))
}

/// `sum += scale a b`.
pub(crate) fn add_product(sum: &mut [f32], pair: Pair, scale: f32) {
    in_pool(Sum::of(table_mut(sum, pair.0.nrows())), &[pair], scale);
}

/// `scale a b`, row after row, on this thread.
pub(crate) fn multiplied(pair: Pair, scale: f32) -> Vec<f32> {
    let (rows, columns) = (pair.0.nrows(), pair.1.ncols());
    written(rows, columns, |mut sum| sum.add_by_columns(pair, scale))
}

/// `to = scale a b`, on this thread.
pub(crate) fn multiply(to: ArrayViewMut2<f32>, pair: Pair, scale: f32) {
    let mut sum = Sum::of(to);
    sum.begun = false;
    sum.add_by_columns(pair, scale);
}

/// `to += scale a b`, on this thread.
pub(crate) fn multiply_add(to: ArrayViewMut2<f32>, pair: Pair, scale: f32) {
    Sum::of(to).add_by_columns(pair, scale);
}

/// Whether to go through a product by the rows of `a`.
///
/// gemm goes in vectors through the columns of `b`, of which a weight has more than a batch has
/// rows. Where each of these columns is contiguous they are transposed first, which takes as
/// long as multiplying where rows are few.
fn by_rows((a, b): Pair) -> bool {
    const FEW: usize = 64;
    a.nrows() <= FEW && b.strides()[0] == 1
}

/// `sum += scale sum_i a_i b_i`, in more parts than threads, so that one that is held up leaves of
/// its share to the others, but not many more, as each copies what the parts have in common; by
/// the rows of `a` that is all of them.
fn in_pool(sum: Sum, pairs: &[Pair], scale: f32) {
    let pairs: Vec<_> = pairs.iter().map(|&pair| (pair, by_rows(pair))).collect();
    let of_each = 2 - usize::from(pairs.iter().all(|(_, by_rows)| *by_rows));
    let parts = of_each * rayon::current_num_threads();
    in_parts(sum, &pairs, scale, parts);
}

/// Rows of a tile of gemm's largest kernel with AVX-512, of four with AVX2.
const SIDE: usize = if cfg!(target_feature = "avx512f") {
    64
} else {
    96
};

/// A part is that of some columns of `b`, or of some rows of `a` where `b` has few columns. It has
/// more than 64 of them: in smaller tables gemm adds in another order, and numbers would depend on
/// how many threads there are.
fn in_parts(mut sum: Sum, pairs: &[(Pair, bool)], scale: f32, parts: usize) {
    const WHOLE: usize = 4 * SIDE;
    let (rows, columns) = sum.table.dim();
    let axis = Axis(usize::from(columns >= WHOLE));
    let whole = sum.table.len_of(axis);
    if parts < 2 || whole < WHOLE || rows.min(columns) == 0 {
        for &(pair, by_rows) in pairs {
            sum.add(pair, scale, by_rows);
        }
        return;
    }
    let at = (whole / 2).next_multiple_of(SIDE);
    let halves = pairs.iter().map(|&((a, b), by_rows)| {
        let ((a, c), (b, d)) = match axis {
            Axis(0) => (a.split_at(axis, at), (b, b)),
            _ => ((a, a), b.split_at(axis, at)),
        };
        (((a, b), by_rows), ((c, d), by_rows))
    });
    let (left, right): (Vec<_>, Vec<_>) = halves.unzip();
    let [s, t] = sum.split_at(axis, at);
    rayon::join(
        || in_parts(s, &left, scale, parts / 2),
        || in_parts(t, &right, scale, parts / 2),
    );
}

/// A table to which products are added.
struct Sum<'a> {
    table: ArrayViewMut2<'a, MaybeUninit<f32>>,
    /// Whether the table holds numbers; the first product is written.
    begun: bool,
}

impl<'a> Sum<'a> {
    fn of(mut table: ArrayViewMut2<'a, f32>) -> Self {
        let place = table.raw_view_mut().cast::<MaybeUninit<f32>>();
        Self {
            // SAFETY: borrowed as long, and nothing but numbers is written to it
            table: unsafe { place.deref_into_view_mut() },
            begun: true,
        }
    }

    fn split_at(self, axis: Axis, at: usize) -> [Self; 2] {
        let begun = self.begun;
        let (table, other) = self.table.split_at(axis, at);
        [table, other].map(|table| Self { table, begun })
    }

    /// `self += scale a b`, by the rows of `a` if `by_rows`; as dot products if these are
    /// few.
    fn add(&mut self, (a, b): Pair, scale: f32, by_rows: bool) {
        const HANDFUL: usize = 8;
        let (rows, columns) = (a.nrows(), b.ncols());
        if !by_rows {
            return match b.reversed_axes().to_slice() {
                Some(weight) if !weight.is_empty() => {
                    self.add_by_panels(a, (weight, columns), scale);
                }
                _ => self.add_by_columns((a, b), scale),
            };
        }
        if rows <= HANDFUL {
            // of so many numbers gemm computes each for itself
            let most = 256 / rows.next_power_of_two();
            let tables = self.table.axis_chunks_iter_mut(Axis(1), most);
            let begun = self.begun;
            for (table, b) in tables.zip(b.axis_chunks_iter(Axis(1), most)) {
                Sum { table, begun }.add_by_columns((a, b), scale);
            }
            self.begun = true;
            return;
        }
        let transposed = written(columns, rows, |sum| {
            let table = sum.table.reversed_axes();
            Sum { table, ..sum }.add_by_columns((a, b), scale);
        });
        let transposed = table(&transposed, columns);
        for (sum, y) in self.table.rows_mut().into_iter().zip(transposed.columns()) {
            for (sum, y) in sum.into_iter().zip(y) {
                // SAFETY: it has begun
                let begun = self.begun.then(|| unsafe { sum.assume_init() });
                sum.write(begun.map_or(*y, |sum| sum + y));
            }
        }
        self.begun = true;
    }

    /// `self += scale a W^T`, given the data of W and how many `rows` it has.
    ///
    /// `SIDE` of these at a time are transposed, sixteen by sixteen numbers; gemm would go from
    /// row to row with each number and find few of their lines in the cache again.
    fn add_by_panels(&mut self, a: Table, (data, rows): (&[f32], usize), scale: f32) {
        let (inner, begun) = (data.len() / rows, self.begun);
        let mut place = Box::new_uninit_slice(SIDE * inner);
        let sums = self.table.axis_chunks_iter_mut(Axis(1), SIDE);
        for (sum, data) in sums.zip(data.chunks(SIDE * inner)) {
            let panel = transposed(data, inner, &mut place);
            Sum { table: sum, begun }.add_by_columns((a, table(panel, inner)), scale);
        }
        self.begun = true;
    }

    fn add_by_columns(&mut self, (a, b): Pair, scale: f32) {
        // by itself gemm copies nothing for less than 8 tiles, and then reads a weight whose rows
        // have a power of two of numbers at half the rate
        static PACKING: Once = Once::new();
        PACKING.call_once(|| gemm::set_lhs_packing_threshold_single_thread(2));
        let ((rows, inner), (between, columns)) = (a.dim(), b.dim());
        assert_eq!((inner, (rows, columns)), (between, self.table.dim()));
        let (to, [row, column]) = (self.table.as_mut_ptr(), strides(self.table.strides()));
        let ([a_row, a_column], [b_row, b_column]) = (strides(a.strides()), strides(b.strides()));
        // SAFETY: the sizes fit, the views say where their numbers lie, and what is written to is
        // borrowed alone and read only if it holds numbers
        unsafe {
            gemm::gemm(
                rows,
                columns,
                inner,
                to.cast::<f32>(),
                column,
                row,
                self.begun,
                a.as_ptr(),
                a_column,
                a_row,
                b.as_ptr(),
                b_column,
                b_row,
                1.,
                scale,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
        self.begun = true;
    }
}

/// A table of rows of `inner` numbers, transposed, at the front of `place`.
fn transposed<'a>(data: &[f32], inner: usize, place: &'a mut [MaybeUninit<f32>]) -> &'a [f32] {
    let place = &mut place[..data.len()];
    // SAFETY: numbers are read as what need not be numbers; each of the place's is written, which
    // has as many
    unsafe {
        let data = std::slice::from_raw_parts(data.as_ptr().cast(), data.len());
        transpose::transpose(data, place, inner, data.len() / inner);
        std::slice::from_raw_parts(place.as_ptr().cast(), place.len())
    }
}

fn strides(strides: &[isize]) -> [isize; 2] {
    [strides[0], strides[1]]
}

/// A table, row after row, that `write` adds a product to.
fn written(rows: usize, columns: usize, write: impl FnOnce(Sum)) -> Vec<f32> {
    let mut data = Vec::with_capacity(rows * columns);
    let table = table_mut(&mut data.spare_capacity_mut()[..rows * columns], rows);
    let begun = false;
    write(Sum { table, begun });
    // SAFETY: a product writes the whole of its table
    unsafe { data.set_len(rows * columns) };
    data
}
