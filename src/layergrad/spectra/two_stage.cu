// Symmetric matrices to tridiagonal form in two stages, many at once, in float64.
//
// The one-stage reduction of kernels.cu reads the whole trailing matrix once per column. Here a
// panel of BAND columns is reduced at a time (Bischof, Lang and Sun, ACM TOMS 26, 2000): what is
// left is matrix products, which read the trailing matrix a few times per panel and run on the
// tensor cores. The band matrix is small, and is reduced by chasing bulges through it, several
// sweeps at once. Matrices are row-major, n x n, both triangles valid. No atomics, and no choice
// that depends on the batch: a matrix gives the same bits whatever it is solved with.
//
// Panel p reduces columns p .. p + BAND - 1 below row p + BAND; the m = n - p - BAND rows and
// columns from there on are the trailing matrix A2. Its update, A2 + V W' + W V', is delayed, as in
// LAPACK's dlatrd, until DELAY panels have come together: it is bound by memory, and so is done
// a DELAY-th as often. The vectors V and weights W of the panels that wait lie side by side, in
// columns BAND * slot of matrices of `rows` x WIDE with the rows of A; rows from n on are zero.
// THREADS (of `panel` and `combine`), DELAY and CHASERS (warps of `chase`) are given to the compiler.

#define BAND 32
#define TILE 64
#define HEIGHT 64        // of a column of the band matrix, which has up to 2 * BAND - 1 entries
#define PITCH 40         // rows of so many doubles are read 16 bytes at a time without bank conflicts
#define PITCH_ACROSS 34  // and pairs of such rows 8 bytes at a time
#define WARPS (THREADS / 32)
#define WIDE (DELAY * BAND)
// A column whose squares sum to this or less is taken as zero: denormal sums lose the precision
// that keeps a reflection orthogonal.
#define NEGLIGIBLE 1e-280

// c += a b for a 16 x 16 matrix a and a 16 x 8 matrix b spread over a warp. With g = lane / 4 and
// t = lane % 4, a[2 q + h] is row g + 8 h, and b[q] column g, at the q-th of the four places in the
// sum that belong to t; c[2 h + i] is row g + 8 h, column 2 t + i.
__device__ __forceinline__ void multiply(double (&c)[4], const double (&a)[8], const double (&b)[4]) {
#if __CUDA_ARCH__ >= 900
    asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, {%0, %1, %2, %3};"
        : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
        : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]),
          "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
#else
    for (int q = 0; q < 4; q++)
        for (int h = 0; h < 2; h++)
            asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
                : "+d"(c[2 * h]), "+d"(c[2 * h + 1])
                : "d"(a[2 * q + h]), "d"(b[q]));
#endif
}

// The place of q in a sum of 16: pairs lie side by side, so that rows are read 16 bytes at a time.
__device__ __forceinline__ int place(int q, int t) { return 8 * (q >> 1) + 2 * t + (q & 1); }

// Four places of two rows, 8 apart, of a row-major matrix: the a of `multiply`.
__device__ __forceinline__ void read_rows(double (&a)[8], const double* row, int pitch, int t) {
    for (int half = 0; half < 2; half++)
        for (int h = 0; h < 2; h++) {
            const double2 pair = *(const double2*)(row + h * 8 * pitch + 8 * half + 2 * t);
            a[4 * half + h] = pair.x;
            a[4 * half + 2 + h] = pair.y;
        }
}

// Four places of one row: the b of `multiply` where its columns are the rows of a matrix.
__device__ __forceinline__ void read_row(double (&b)[4], const double* row, int t) {
    for (int half = 0; half < 2; half++) {
        const double2 pair = *(const double2*)(row + 8 * half + 2 * t);
        b[2 * half] = pair.x;
        b[2 * half + 1] = pair.y;
    }
}

// Copies 8 or 16 bytes to shared memory without waiting, zeros where there is nothing to copy.
__device__ __forceinline__ void copy8(double* to, const double* from, bool exists) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(exists ? 8 : 0)
                 : "memory");
}

__device__ __forceinline__ void copy16(double* to, const double* from) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (unsigned)__cvta_generic_to_shared(to)),
                 "l"(from)
                 : "memory");
}

__device__ __forceinline__ void end_of_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

__device__ __forceinline__ void wait_for_all_but_last() { asm volatile("cp.async.wait_group 1;" ::: "memory"); }

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

__device__ __forceinline__ double warp_sum(double value) {
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}

// Sums N values over a warp; lane l is given the sum of value l % N. Halving the values with every
// exchange takes N - 1 of them, not 5 N. (A template because a loop over halves is not unrolled, and
// an array that is not goes to memory.)
template <int HALF, int N>
__device__ __forceinline__ void exchange(double (&values)[N], int lane) {
    const bool upper = lane & HALF;
#pragma unroll
    for (int i = 0; i < HALF; i++) {
        const double sent = upper ? values[i] : values[i + HALF];
        const double kept = upper ? values[i + HALF] : values[i];
        values[i] = kept + __shfl_xor_sync(~0u, sent, HALF);
    }
    if constexpr (HALF > 1) exchange<HALF / 2>(values, lane);
}

template <int N>
__device__ __forceinline__ double warp_sums(double (&values)[N], int lane) {
    exchange<N / 2>(values, lane);
    double sum = values[0];
    for (int offset = N; offset < 32; offset <<= 1) sum += __shfl_xor_sync(~0u, sum, offset);
    return sum;
}

// The reflection I - tau v v' that turns (alpha, x) into (beta, 0), where v = (1, scale x) and
// `square` is the sum of the squares of x.
struct Reflection {
    double beta, tau, scale;
};

__device__ __forceinline__ Reflection reflection(double alpha, double square) {
    if (square <= NEGLIGIBLE) return {alpha, 0.0, 0.0};  // false for NaN, which must not be lost
    const double squares = alpha * alpha + square, inverse = rsqrt(squares);
    const double norm = squares * inverse, sign = copysign(1.0, alpha);
    return {-sign * norm, 1.0 + fabs(alpha) * inverse, sign / (fabs(alpha) + norm)};
}

__device__ __forceinline__ int entry(int row, int column) { return column * HEIGHT + row - column; }

// Householder QR of a panel, PART columns at a time in shared memory (X, PART * m doubles). Writes the
// diagonal block and R to the band matrix, the vectors and their tau.
template <int PART>
__device__ __forceinline__ void factor_panel(double* X, double* matrices, double* bands,
                                             double* vectors, double* taus, int n, int p, int rows,
                                             int slot) {
    __shared__ double partial[2][WARPS][PART], products[PART][PART], T[PART][PART], tau[PART];
    double* A = matrices + (size_t)blockIdx.y * n * n;
    double* band = bands + (size_t)blockIdx.y * (n + HEIGHT) * HEIGHT;
    double* V = vectors + ((size_t)blockIdx.y * rows + p + BAND) * WIDE + slot * BAND;
    const int m = n - p - BAND, t = threadIdx.x, warp = t >> 5, lane = t & 31;

    for (int i = t; i < BAND * BAND; i += THREADS) {
        const int row = p + i / BAND, column = p + i % BAND;
        if (row >= column && row < n) band[entry(row, column)] = A[(size_t)row * n + column];
    }
    if (m <= 0) return;

    double* columns = A + (size_t)p * n + p + BAND;  // column c is the row c of its mirror image
    for (int first = 0; first < BAND; first += PART) {
        double sums[PART];  // of the products of the column at work with those after it
#pragma unroll
        for (int k = 0; k < PART; k++) sums[k] = 0.0;
        for (int r = t; r < m; r += THREADS) {
            double x[PART];
#pragma unroll
            for (int k = 0; k < PART; k++) {
                x[k] = columns[(size_t)(first + k) * n + r];
                if (r < first) band[entry(p + BAND + r, p + first + k)] = x[k];
                X[k * m + r] = x[k];
            }
            if (r > first)
#pragma unroll
                for (int k = 0; k < PART; k++) sums[k] += x[0] * x[k];
        }
#pragma unroll
        for (int c = 0; c < PART; c++) {
            const int pivot = first + c;
            const double own = warp_sums<PART>(sums, lane);
            if (lane < PART) partial[c & 1][warp][lane] = own;
            __syncthreads();
            double total = 0.0;
            for (int w = lane / PART; w < WARPS; w += 32 / PART) total += partial[c & 1][w][lane % PART];
#pragma unroll
            for (int offset = PART; offset < 32; offset <<= 1)
                total += __shfl_xor_sync(~0u, total, offset);
            const Reflection h =
                reflection(pivot < m ? X[c * m + pivot] : 0.0, __shfl_sync(~0u, total, c));
            double share[PART];
#pragma unroll
            for (int k = c + 1; k < PART; k++) {
                const double top = pivot < m ? X[k * m + pivot] : 0.0;
                share[k] = h.tau * (top + h.scale * __shfl_sync(~0u, total, k));
                if (t == 0 && pivot < m)
                    band[entry(p + BAND + pivot, p + first + k)] = top - share[k];
            }
            if (t == 0) {
                if (pivot < m) band[entry(p + BAND + pivot, p + pivot)] = h.beta;
                tau[c] = taus[blockIdx.y * BAND + pivot] = h.tau;
            }
#pragma unroll
            for (int k = 0; k < PART; k++) sums[k] = 0.0;
            for (int r = t; r < m; r += THREADS) {
                if (r <= pivot) continue;
                const double v = X[c * m + r] * h.scale;
                X[c * m + r] = v;
                double x[PART];
#pragma unroll
                for (int k = c + 1; k < PART; k++) {
                    x[k] = X[k * m + r] - share[k] * v;
                    X[k * m + r] = x[k];
                }
                if (c + 1 < PART && r > pivot + 1)
#pragma unroll
                    for (int k = c + 1; k < PART; k++) sums[k] += x[c + 1 < PART ? c + 1 : c] * x[k];
            }
        }
        __syncthreads();
        for (int i = t; i < PART * BAND; i += THREADS) {  // what is above the pivots belongs to R
            const int c = i / BAND, r = i % BAND;
            if (r <= first + c && r < m) X[c * m + r] = r == first + c ? 1.0 : 0.0;
        }
        __syncthreads();
        for (int r = t; r < m; r += THREADS)
#pragma unroll
            for (int c = 0; c < PART; c++) V[r * WIDE + first + c] = X[c * m + r];
        if (first + PART == BAND) break;

        // the reflections of this part, I - V T V', on the columns after it
        for (int i = warp; i < PART * PART; i += WARPS) {
            const int a = i / PART, b = i % PART;
            if (a >= b) continue;
            double sum = 0.0;
            for (int r = lane; r < m; r += 32) sum += X[a * m + r] * X[b * m + r];
            sum = warp_sum(sum);
            if (lane == 0) products[a][b] = sum;
        }
        __syncthreads();
        if (t < PART)
            for (int b = 0; b < PART; b++) {
                double sum = 0.0;
                for (int k = t; k < b; k++) sum += T[t][k] * products[k][b];
                T[t][b] = b < t ? 0.0 : (b == t ? tau[b] : -tau[b] * sum);
            }
        __syncthreads();
        for (int k = first + PART + 2 * warp; k < BAND; k += 2 * WARPS) {
            double *left = columns + (size_t)k * n, *right = left + n;
            double dots[2 * PART];
#pragma unroll
            for (int c = 0; c < 2 * PART; c++) dots[c] = 0.0;
            for (int r = lane; r < m; r += 32) {
                const double x = left[r], y = right[r];
#pragma unroll
                for (int c = 0; c < PART; c++) {
                    dots[c] += X[c * m + r] * x;
                    dots[PART + c] += X[c * m + r] * y;
                }
            }
            const double dot = warp_sums<2 * PART>(dots, lane);
            double mixed = 0.0;  // T' dot
#pragma unroll
            for (int c = 0; c < PART; c++)
                mixed += T[c][lane % PART] * __shfl_sync(~0u, dot, (lane & PART) + c);
#pragma unroll
            for (int c = 0; c < 2 * PART; c++) dots[c] = __shfl_sync(~0u, mixed, c);
            for (int r = lane; r < m; r += 32) {
                double x = left[r], y = right[r];
#pragma unroll
                for (int c = 0; c < PART; c++) {
                    x -= X[c * m + r] * dots[c];
                    y -= X[c * m + r] * dots[PART + c];
                }
                left[r] = x;
                right[r] = y;
            }
        }
        __syncthreads();
    }
}

#define PANEL(PART)                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                         \
    panel##PART(double* matrices, double* bands, double* vectors, double* taus, int n, int p,     \
                int rows, int slot) {                                                             \
        extern __shared__ __align__(16) double shared[];                                          \
        factor_panel<PART>(shared, matrices, bands, vectors, taus, n, p, rows, slot);             \
    }
PANEL(8)
PANEL(4)

// Y = A2 V with A2 as it was last updated, a block of 128 threads for every TILE rows.
// Shared memory: 2 stages.
#define STAGE (TILE * PITCH + BAND * PITCH_ACROSS)
extern "C" __global__ void __launch_bounds__(128)
product(const double* matrices, const double* vectors, double* results, int n, int p, int rows, int slot) {
    extern __shared__ __align__(16) double shared[];
    const int m = n - p - BAND, t = threadIdx.x, warp = t >> 5, g = (t & 31) >> 2, q4 = t & 3;
    const int top = TILE * blockIdx.x;
    const double* A = matrices + (size_t)blockIdx.y * n * n + (size_t)(p + BAND) * n + p + BAND;
    const double* V = vectors + ((size_t)blockIdx.y * rows + p + BAND) * WIDE + slot * BAND;
    double* Y = results + ((size_t)blockIdx.y * rows + p + BAND) * BAND;
    double sums[4][4] = {};

    const int column = t & 31;
    auto fetch = [&](int k0) {
        double* a = shared + (k0 / BAND & 1) * STAGE;
        double* v = a + TILE * PITCH;
        for (int row = warp; row < TILE; row += 4) {
            const bool exists = top + row < m && k0 + column < m;
            copy8(a + row * PITCH + column, exists ? A + (size_t)(top + row) * n + k0 + column : A, exists);
        }
        for (int i = t; i < BAND * BAND / 2; i += 128)
            copy16(v + i / 16 * PITCH_ACROSS + i % 16 * 2, V + (k0 + i / 16) * WIDE + i % 16 * 2);
        end_of_copies();
    };
    fetch(0);
    for (int k0 = 0; k0 < m; k0 += BAND) {
        if (k0 + BAND < m) {
            fetch(k0 + BAND);
            wait_for_all_but_last();
        } else
            wait_for_copies();
        __syncthreads();
        const double* a = shared + (k0 / BAND & 1) * STAGE;
        const double* v = a + TILE * PITCH;
#pragma unroll
        for (int k = 0; k < BAND; k += 16) {
            double left[8];
            read_rows(left, a + (16 * warp + g) * PITCH + k, PITCH, q4);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                double right[4];
                for (int q = 0; q < 4; q++) right[q] = v[(k + place(q, q4)) * PITCH_ACROSS + 8 * j + g];
                multiply(sums[j], left, right);
            }
        }
        __syncthreads();
    }
#pragma unroll
    for (int j = 0; j < 4; j++)
        for (int h = 0; h < 2; h++)
            *(double2*)(Y + (top + 16 * warp + g + 8 * h) * BAND + 8 * j + 2 * q4) =
                make_double2(sums[j][2 * h], sums[j][2 * h + 1]);
}

// The upper triangular T of H(0) .. H(31) = I - V T V' from V' V and tau, a row each of the first
// BAND threads.
__device__ __forceinline__ void triangle(double (&T)[BAND][BAND + 1], const double (&VV)[BAND][BAND + 1],
                                         const double* tau) {
    const int row = threadIdx.x;
    if (row >= BAND) return;
    for (int b = 0; b < BAND; b++) {
        double sum = 0.0;
        for (int k = row; k < b; k++) sum += T[row][k] * VV[k][b];
        T[row][b] = b < row ? 0.0 : (b == row ? tau[b] : -tau[b] * sum);
    }
}

// W = V (T' V' Y T) / 2 - Y T, with which A2 <- A2 + V W' + W V' is the similarity transformation by
// I - V T V'. Y is first brought up to date with the panels before `slot` that wait:
// Y <- Y + Vk (Wk' V) + Wk (Vk' V).
// Shared memory: WARPS * BAND * BAND + 2 * DELAY * BAND * (BAND + 1) doubles.
extern "C" __global__ void __launch_bounds__(THREADS)
combine(const double* vectors, const double* results, const double* taus, double* weights, int n, int p,
        int rows, int slot) {
    extern __shared__ __align__(16) double shared[];
    __shared__ double T[BAND][BAND + 1];
    double(*VkV)[BAND][BAND + 1] = (double(*)[BAND][BAND + 1])(shared + WARPS * BAND * BAND);
    double(*WkV)[BAND][BAND + 1] = VkV + DELAY;
    auto& VV = VkV[slot];
    auto& YV = WkV[slot];
    const size_t at = (size_t)blockIdx.y * rows + p + BAND;
    const double *V = vectors + at * WIDE, *own = V + slot * BAND, *Y = results + at * BAND;
    double* W = weights + at * WIDE;
    const int m = n - p - BAND, t = threadIdx.x, warp = t >> 5, g = (t & 31) >> 2, q4 = t & 3;

    for (int k = 0; k <= slot; k++) {  // Vk' V by half of the warps; Wk' V, last Y' V, by the others
        const bool second = warp >= WARPS / 2;
        const double* X = !second ? V + k * BAND : (k < slot ? W + k * BAND : Y);
        const int pitch = second && k == slot ? BAND : WIDE;
        double sums[2][4][4] = {};
        for (int r = 16 * (warp % (WARPS / 2)); r < m; r += 8 * WARPS) {
            double left[2][8];
            for (int i = 0; i < 2; i++)
                for (int l = 0; l < 8; l++)
                    left[i][l] = X[(size_t)(r + place(l >> 1, q4)) * pitch + 16 * i + g + 8 * (l & 1)];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                double right[4];
                for (int q = 0; q < 4; q++) right[q] = own[(size_t)(r + place(q, q4)) * WIDE + 8 * j + g];
                multiply(sums[0][j], left[0], right);
                multiply(sums[1][j], left[1], right);
            }
        }
#pragma unroll
        for (int i = 0; i < 2; i++)
            for (int j = 0; j < 4; j++)
                for (int l = 0; l < 4; l++)
                    shared[warp * BAND * BAND + (16 * i + g + 8 * (l >> 1)) * BAND + 8 * j + 2 * q4 + (l & 1)] =
                        sums[i][j][l];
        __syncthreads();
        for (int i = t; i < BAND * BAND; i += THREADS) {
            double first = 0.0, other = 0.0;
            for (int w = 0; w < WARPS / 2; w++) {
                first += shared[w * BAND * BAND + i];
                other += shared[(w + WARPS / 2) * BAND * BAND + i];
            }
            VkV[k][i / BAND][i % BAND] = first;
            WkV[k][i / BAND][i % BAND] = other;
        }
        __syncthreads();
    }
    triangle(T, VV, taus + blockIdx.y * BAND);
    __syncthreads();
    double* S = shared;  // V' Y, brought up to date
    for (int i = t; i < BAND * BAND; i += THREADS) {
        const int row = i / BAND, column = i % BAND;
        double sum = YV[column][row];
        for (int k = 0; k < slot; k++)
            for (int l = 0; l < BAND; l++)
                sum += VkV[k][l][row] * WkV[k][l][column] + WkV[k][l][row] * VkV[k][l][column];
        S[row * BAND + column] = sum;
    }
    __syncthreads();
    auto& ST = VV;  // V' V has done its work
    for (int i = t; i < BAND * BAND; i += THREADS) {
        double sum = 0.0;
        for (int k = 0; k < BAND; k++) sum += S[i / BAND * BAND + k] * T[k][i % BAND];
        ST[i / BAND][i % BAND] = sum;
    }
    __syncthreads();
    // W is [V0 W0 V1 W1 .. V Y] times this
    double(*mixed)[PITCH_ACROSS] = (double(*)[PITCH_ACROSS])shared;
    for (int i = t; i < 2 * (slot + 1) * BAND * BAND; i += THREADS) {
        const int which = i / BAND / BAND, row = i / BAND % BAND, column = i % BAND;
        double sum = 0.0;
        if (which == 2 * slot + 1)
            sum = -T[row][column];
        else if (which == 2 * slot)
            for (int k = 0; k < BAND; k++) sum += 0.5 * T[k][row] * ST[k][column];
        else {
            const auto& factor = which & 1 ? VkV[which / 2] : WkV[which / 2];
            for (int k = 0; k < BAND; k++) sum -= factor[row][k] * T[k][column];
        }
        mixed[which * BAND + row][column] = sum;
    }
    __syncthreads();
    for (int r = 16 * warp; r < m; r += 16 * WARPS) {
        double sums[4][4] = {};
        for (int which = 0; which <= 2 * slot + 1; which++) {
            const double* X = which == 2 * slot + 1 ? Y : (which & 1 ? W : V) + which / 2 * BAND;
            const int pitch = which == 2 * slot + 1 ? BAND : WIDE;
#pragma unroll
            for (int k = 0; k < BAND; k += 16) {
                double left[8];
                read_rows(left, X + (size_t)(r + g) * pitch + k, pitch, q4);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    double right[4];
                    for (int q = 0; q < 4; q++) right[q] = mixed[which * BAND + k + place(q, q4)][8 * j + g];
                    multiply(sums[j], left, right);
                }
            }
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            for (int h = 0; h < 2; h++)
                *(double2*)(W + (size_t)(r + g + 8 * h) * WIDE + slot * BAND + 8 * j + 2 * q4) =
                    make_double2(sums[j][2 * h], sums[j][2 * h + 1]);
    }
}

// A + V W' + W V' for the ROWS x TILE entries from (top, left) on, V and W of `waiting` panels,
// by 128 threads; and for their mirror image. Shared memory: 2 * (TILE + ROWS) * PITCH doubles.
template <int ROWS>
__device__ __forceinline__ void update_tile(double* shared, double* A, const double* V, const double* W, int n,
                                            int top, int left, int waiting, bool mirror) {
    constexpr int N = ROWS / 16;  // a warp computes 32 x 8 N entries
    const int t = threadIdx.x, warp = t >> 5, g = (t & 31) >> 2, q4 = t & 3;
    const int down = ROWS == 64 ? 32 * (warp >> 1) : 0, across = 8 * N * (ROWS == 64 ? warp & 1 : warp);
    double *VI = shared, *WI = VI + ROWS * PITCH, *VJ = WI + ROWS * PITCH, *WJ = VJ + TILE * PITCH;
    auto fetch = [&](int panel) {
        for (int i = t; i < TILE * BAND / 2; i += 128) {
            const int row = i / 16, column = i % 16 * 2, to = row * PITCH + column;
            const size_t above = (size_t)(top + row) * WIDE + panel * BAND + column;
            const size_t beside = (size_t)(left + row) * WIDE + panel * BAND + column;
            if (row < ROWS) {
                copy16(VI + to, V + above);
                copy16(WI + to, W + above);
            }
            copy16(VJ + to, V + beside);
            copy16(WJ + to, W + beside);
        }
        end_of_copies();
    };
    fetch(0);
    // Added at the end, not where the sums start from: one rounding at the size of A, not 64.
    double old[2][N][4], sums[2][N][4] = {};
    const int row = top + down + g, column = left + across + 2 * q4;
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int r = row + 16 * i + 8 * (k >> 1), c = column + 8 * j + (k & 1);
                old[i][j][k] = r < n && c < n ? A[(size_t)r * n + c] : 0.0;
            }
    for (int panel = 0; panel < waiting; panel++) {
        wait_for_copies();
        __syncthreads();
#pragma unroll
        for (int k = 0; k < 2 * BAND; k += 16) {
            const double* a = (k < BAND ? VI : WI) + (down + g) * PITCH + k % BAND;
            const double* b = (k < BAND ? WJ : VJ) + (across + g) * PITCH + k % BAND;
            double above[2][8];
            read_rows(above[0], a, PITCH, q4);
            read_rows(above[1], a + 16 * PITCH, PITCH, q4);
#pragma unroll
            for (int j = 0; j < N; j++) {
                double beside[4];
                read_row(beside, b + 8 * j * PITCH, q4);
                multiply(sums[0][j], above[0], beside);
                multiply(sums[1][j], above[1], beside);
            }
        }
        if (panel + 1 == waiting) break;
        __syncthreads();
        fetch(panel + 1);
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < N; j++)
#pragma unroll
            for (int k = 0; k < 4; k++) {
                const int r = row + 16 * i + 8 * (k >> 1), c = column + 8 * j + (k & 1);
                if (r >= n || c >= n) continue;
                const double updated = old[i][j][k] + sums[i][j][k];
                A[(size_t)r * n + c] = updated;
                if (mirror) A[(size_t)c * n + r] = updated;
            }
}

// Brings the trailing matrix of panel p up to date, a block for each tile on or below its diagonal.
extern "C" __global__ void __launch_bounds__(128)
update(double* matrices, const double* vectors, const double* weights, int n, int p, int rows, int waiting) {
    extern __shared__ __align__(16) double shared[];
    int I = (int)((sqrtf(8.0f * blockIdx.x + 1.0f) - 1.0f) * 0.5f);
    while ((I + 1) * (I + 2) / 2 <= (int)blockIdx.x) I++;
    while (I * (I + 1) / 2 > (int)blockIdx.x) I--;
    const int J = blockIdx.x - I * (I + 1) / 2, first = p + BAND;
    const size_t at = (size_t)blockIdx.y * rows * WIDE;
    update_tile<TILE>(shared, matrices + (size_t)blockIdx.y * n * n, vectors + at, weights + at, n,
                      first + TILE * I, first + TILE * J, waiting, I != J);
}

// Brings rows p .. p + BAND - 1 from the diagonal on up to date: what the next panel is made of.
extern "C" __global__ void __launch_bounds__(128)
refresh(double* matrices, const double* vectors, const double* weights, int n, int p, int rows, int waiting) {
    extern __shared__ __align__(16) double shared[];
    const size_t at = (size_t)blockIdx.y * rows * WIDE;
    update_tile<BAND>(shared, matrices + (size_t)blockIdx.y * n * n, vectors + at, weights + at, n, p,
                      p + TILE * blockIdx.x, waiting, false);
}

// Band to tridiagonal by chasing bulges (Murata and Horikoshi; Haidar, Ltaief and Dongarra, SC11).
// Sweep s clears column s below its first subdiagonal; its step k reflects the BAND rows from
// s + 1 + BAND k on, which clears the first column of the bulge that step k - 1 left and moves the
// bulge on. A block of CHASERS warps takes a matrix, a warp a sweep; it keeps two steps behind the
// sweep before it, whose entries it needs. Lane i holds row i of the block at work. What the sweeps
// at work touch must fit in the L2 cache: for 1,000 rows 16 chasers take three times as long as 8,
// and what 8 write still fills three quarters of its bandwidth. (A ring in shared memory in place of
// the cache saved a tenth at 2,048 rows and lost two tenths at 600.)
#define SWEEP 4096  // more than the steps of a sweep

// Entries 2 c and 2 c + 1 of a vector in shared memory.
__device__ __forceinline__ double2 pair(const double* vector, int c) { return ((const double2*)vector)[c]; }

// Row `lane` of a block of the band matrix: `corner` points to its entry in column 0.
__device__ __forceinline__ void read_block(double (&x)[BAND], const double* corner) {
#pragma unroll
    for (int c = 0; c < BAND; c++) x[c] = corner[c * (HEIGHT - 1)];
}

__device__ __forceinline__ double dot(const double (&x)[BAND], const double* vector) {
    double sums[4] = {};
#pragma unroll
    for (int c = 0; c < BAND / 2; c++) {
        const double2 v = pair(vector, c);
        sums[2 * (c & 1)] += x[2 * c] * v.x;
        sums[2 * (c & 1) + 1] += x[2 * c + 1] * v.y;
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// x <- x - factor * vector
__device__ __forceinline__ void subtract(double (&x)[BAND], double factor, const double* vector) {
#pragma unroll
    for (int c = 0; c < BAND / 2; c++) {
        const double2 v = pair(vector, c);
        x[2 * c] -= factor * v.x;
        x[2 * c + 1] -= factor * v.y;
    }
}

extern "C" __global__ void __launch_bounds__(32 * CHASERS) chase(double* bands, int n) {
    __shared__ volatile int progress[CHASERS];  // SWEEP * sweep + steps done
    __shared__ __align__(16) double spread[CHASERS][2][BAND];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    double* band = bands + (size_t)blockIdx.x * (n + HEIGHT) * HEIGHT;
    double *v = spread[warp][0], *w = spread[warp][1];
    volatile int* before = progress + (warp + CHASERS - 1) % CHASERS;
    if (lane == 0) progress[warp] = -1;
    __syncthreads();

    for (int sweep = warp; sweep < n - 2; sweep += CHASERS) {
        const int steps = (n - sweep - 2) / BAND + 1;
        double tau = 0.0, bulge[BAND];
        bool fetched = false;
        for (int step = 0; step < steps; step++) {
            const int top = sweep + 1 + BAND * step;
            const int needed = sweep ? SWEEP * (sweep - 1) + step + 2 : -1;
            while (*before < needed) __nanosleep(20);
            __syncwarp();
            double* corner = band + (size_t)(top - BAND) * HEIGHT + BAND + lane;
            double* own_corner = band + (size_t)top * HEIGHT + lane;
            double block[BAND], own;  // own: lane's entry of v
            if (step && !fetched) read_block(bulge, corner);
            // of the diagonal block the lower triangle is there; it is read early to hide the wait
#pragma unroll
            for (int c = 0; c < BAND; c++) block[c] = lane >= c ? own_corner[c * (HEIGHT - 1)] : 0.0;
            if (step == 0) {
                double* column = band + sweep * HEIGHT + 1 + lane;
                const double first = *column;
                const Reflection h =
                    reflection(__shfl_sync(~0u, first, 0), warp_sum(lane ? first * first : 0.0));
                tau = h.tau;
                own = lane ? first * h.scale : 1.0;
                *column = lane ? 0.0 : h.beta;
            } else {
                subtract(bulge, tau * dot(bulge, v), v);
                const double first = bulge[0];
                const Reflection h =
                    reflection(__shfl_sync(~0u, first, 0), warp_sum(lane ? first * first : 0.0));
                tau = h.tau;
                own = lane ? first * h.scale : 1.0;
                bulge[0] = 0.0;
                double parts[BAND];
#pragma unroll
                for (int c = 0; c < BAND; c++) parts[c] = own * bulge[c];
                w[lane] = tau * warp_sums<BAND>(parts, lane);
                __syncwarp();
                subtract(bulge, own, w);
                bulge[0] = lane ? 0.0 : h.beta;
#pragma unroll
                for (int c = 0; c < BAND; c++) corner[c * (HEIGHT - 1)] = bulge[c];
            }
            fetched = step + 1 < steps && __all_sync(~0u, *before > needed);
            v[lane] = own;
            __syncwarp();
            if (fetched) read_block(bulge, corner + BAND * HEIGHT);  // of the next step, to hide the wait
            double parts[BAND];
#pragma unroll
            for (int c = 0; c < BAND; c++) parts[c] = lane > c ? block[c] * own : 0.0;
            const double y = tau * (dot(block, v) + warp_sums<BAND>(parts, lane));
            const double mine = y - 0.5 * tau * warp_sum(y * own) * own;
            w[lane] = mine;
            __syncwarp();
#pragma unroll
            for (int c = 0; c < BAND / 2; c++) {  // one rounding at the size of the block, not two
                const double2 other = pair(w, c), entry = pair(v, c);
                block[2 * c] -= own * other.x + mine * entry.x;
                block[2 * c + 1] -= own * other.y + mine * entry.y;
            }
#pragma unroll
            for (int c = 0; c < BAND; c++)
                if (lane >= c) own_corner[c * (HEIGHT - 1)] = block[c];
            __threadfence_block();
            __syncwarp();
            if (lane == 0) progress[warp] = SWEEP * sweep + step + 1;
        }
        if (lane == 0) progress[warp] = SWEEP * sweep + SWEEP - 1;
    }
}
