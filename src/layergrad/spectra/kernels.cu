// Eigenvalues of many small symmetric matrices in float64, one block a matrix.
//
// A spectrum needs the eigenvalues, not the vectors, of hundreds of matrices of a few hundred rows
// at once. Libraries solve them one after another or spend most of the time waiting; here every
// multiprocessor holds its own matrices, reads each trailing matrix once per column and keeps the
// panel of Householder vectors in shared memory. Matrices are row-major, n x n, both triangles
// valid. THREADS, the threads of a block of `tridiagonalise`, and PANEL, the columns of a panel, are
// given to the compiler.

__device__ __forceinline__ double block_sum(double value, double* scratch) {
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) scratch[threadIdx.x >> 5] = value;
    __syncthreads();
    value = (threadIdx.x & 31) < THREADS / 32 ? scratch[threadIdx.x & 31] : 0.0;
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}

// Householder reduction to tridiagonal form (Golub and Van Loan, Matrix Computations, 8.3.1, with
// the delayed updates of LAPACK's dlatrd). Destroys A; writes the diagonal and the off-diagonal.
// Shared memory: (2 * PANEL + 1) * n + THREADS + 32 doubles.
extern "C" __global__ void __launch_bounds__(THREADS, 1024 / THREADS)
tridiagonalise(double* matrices, double* diagonals, double* offdiagonals, int n) {
    extern __shared__ double shared[];
    double* V = shared;               // PANEL x n: Householder vectors of the panel
    double* W = V + PANEL * n;        // PANEL x n: A <- A - v w' - w v'
    double* x = W + PANEL * n;        // n: the column at work
    double* partial = x + n;          // THREADS
    double* scratch = partial + THREADS;  // 32
    __shared__ double dots[2 * PANEL];
    double* A = matrices + (size_t)blockIdx.x * n * n;
    double* d = diagonals + (size_t)blockIdx.x * n;
    double* e = offdiagonals + (size_t)blockIdx.x * n;
    const int t = threadIdx.x, warp = t >> 5, lane = t & 31;

    for (int p = 0; p < n; p += PANEL) {
        const int columns = min(PANEL, n - p);
        for (int c = 0; c < columns; c++) {
            const int j = p + c;
            // the column as the panel so far leaves it
            for (int i = j + t; i < n; i += THREADS) {
                double a = A[(size_t)j * n + i];
                for (int k = 0; k < c; k++) a -= V[k * n + i] * W[k * n + j] + W[k * n + i] * V[k * n + j];
                x[i] = a;
            }
            __syncthreads();
            if (t == 0) d[j] = x[j];
            if (j == n - 1) break;
            double square = 0.0;
            for (int i = j + 2 + t; i < n; i += THREADS) square += x[i] * x[i];
            square = block_sum(square, scratch);
            const double alpha = x[j + 1];
            double beta = alpha, tau = 0.0, scale = 0.0;
            if (!(square <= 0.0)) {  // true for NaN, which must not be lost
                beta = -copysign(sqrt(alpha * alpha + square), alpha);
                tau = (beta - alpha) / beta;
                scale = 1.0 / (alpha - beta);
            }
            if (t == 0) e[j] = beta;
            __syncthreads();
            for (int i = t; i < n; i += THREADS)
                V[c * n + i] = i <= j ? 0.0 : (i == j + 1 ? 1.0 : x[i] * scale);
            __syncthreads();
            const double* v = V + c * n;

            // y = A v on the trailing matrix: a thread owns a column and a share of the rows
            const int m = n - j - 1;
            const int width = min((m + 31) & ~31, THREADS), groups = THREADS / width;
            const int group = t / width, column = t % width;
            for (int first = 0; first < m; first += width) {
                const int i = j + 1 + first + column;
                double sum = 0.0;
                if (group < groups && i < n) {
                    const double* a = A + (size_t)(j + 1 + group) * n + i;
                    const size_t step = (size_t)groups * n;
                    int k = j + 1 + group;
                    for (; k + 7 * groups < n; k += 8 * groups, a += 8 * step) {
                        double s0 = a[0] * v[k] + a[step] * v[k + groups];
                        double s1 = a[2 * step] * v[k + 2 * groups] + a[3 * step] * v[k + 3 * groups];
                        double s2 = a[4 * step] * v[k + 4 * groups] + a[5 * step] * v[k + 5 * groups];
                        double s3 = a[6 * step] * v[k + 6 * groups] + a[7 * step] * v[k + 7 * groups];
                        sum += (s0 + s1) + (s2 + s3);
                    }
                    for (; k < n; k += groups, a += step) sum += a[0] * v[k];
                }
                partial[t] = sum;
                __syncthreads();
                if (t < width && i < n) {
                    for (int g = 1; g < groups; g++) sum += partial[g * width + t];
                    x[i] = sum;
                }
                __syncthreads();
            }
            // what the delayed updates of this panel would have changed in A v
            for (int k = warp; k < 2 * c; k += THREADS / 32) {
                const double* u = k < c ? W + k * n : V + (k - c) * n;
                double sum = 0.0;
                for (int i = j + 1 + lane; i < n; i += 32) sum += u[i] * v[i];
                for (int offset = 16; offset; offset >>= 1) sum += __shfl_xor_sync(~0u, sum, offset);
                if (lane == 0) dots[k] = sum;
            }
            __syncthreads();
            double inner = 0.0;
            for (int i = j + 1 + t; i < n; i += THREADS) {
                double y = x[i];
                for (int k = 0; k < c; k++) y -= V[k * n + i] * dots[k] + W[k * n + i] * dots[c + k];
                y *= tau;
                x[i] = y;
                inner += y * v[i];
            }
            inner = -0.5 * tau * block_sum(inner, scratch);
            for (int i = t; i < n; i += THREADS) W[c * n + i] = i <= j ? 0.0 : x[i] + inner * v[i];
            __syncthreads();
        }
        // trailing update, two triangles: A <- A - V W' - W V'
        const int start = p + columns, m = n - start;
        const int width = min((m + 31) & ~31, THREADS), groups = width ? THREADS / width : 0;
        const int group = width ? t / width : 0, column = width ? t % width : 0;
        if (columns == PANEL)
            for (int first = 0; first < m; first += width) {
                const int k = start + first + column;
                if (group >= groups || k >= n) continue;
                double vk[PANEL], wk[PANEL];
                for (int c = 0; c < PANEL; c++) vk[c] = V[c * n + k], wk[c] = W[c * n + k];
                for (int i = start + group; i < n; i += groups) {
                    double a = A[(size_t)i * n + k];
                    for (int c = 0; c < PANEL; c++) a -= V[c * n + i] * wk[c] + W[c * n + i] * vk[c];
                    A[(size_t)i * n + k] = a;
                }
            }
        __syncthreads();
    }
}

// Eigenvalues of symmetric tridiagonal matrices by bisection, ascending, one thread an eigenvalue.
//
// As many eigenvalues lie below x as signs change among the leading principal minors of T - x
// (Golub and Van Loan, 8.4.1), which are computed as they stand: their ratios, which need no
// scaling, cost a division each and take twice the time. T is scaled to norm 1 and the last two
// minors every fourth one, by powers of two. Squares of off-diagonals are at least 1e-60, so that
// minors neither vanish in pairs nor underflow between two scalings.
// Shared memory: 2 * (n + 3) doubles.
extern "C" __global__ void bisect(const double* diagonals, const double* offdiagonals,
                                  double* eigenvalues, int n, int iterations) {
    extern __shared__ __align__(16) double shared[];
    double2* rows = (double2*)shared;  // diagonal and squared off-diagonal before it
    __shared__ double low_bound[32], high_bound[32];
    const double* diagonal = diagonals + (size_t)blockIdx.x * n;
    const double* offdiagonal = offdiagonals + (size_t)blockIdx.x * n;
    const int t = threadIdx.x, warps = blockDim.x / 32;
    double low = 1e300, high = -1e300;  // Gershgorin
    for (int i = t; i < n; i += blockDim.x) {
        const double left = i ? offdiagonal[i - 1] : 0.0, right = i < n - 1 ? offdiagonal[i] : 0.0;
        const double radius = fabs(left) + fabs(right);
        low = fmin(low, diagonal[i] - radius);
        high = fmax(high, diagonal[i] + radius);
    }
    for (int offset = 16; offset; offset >>= 1) {
        low = fmin(low, __shfl_xor_sync(~0u, low, offset));
        high = fmax(high, __shfl_xor_sync(~0u, high, offset));
    }
    if ((t & 31) == 0) low_bound[t >> 5] = low, high_bound[t >> 5] = high;
    __syncthreads();
    for (int w = 0; w < warps; w++) low = fmin(low, low_bound[w]), high = fmax(high, high_bound[w]);
    const int index = blockIdx.y * blockDim.x + t;
    const double norm = fmax(fabs(low), fabs(high));
    if (norm == 0.0) {
        if (index < n) eigenvalues[(size_t)blockIdx.x * n + index] = 0.0;
        return;
    }
    int exponent;
    frexp(norm, &exponent);
    exponent = max(exponent, -1000);  // the scale must be finite
    const double scale = ldexp(1.0, -exponent);
    for (int i = t; i < (n + 3) / 4 * 4; i += blockDim.x) {
        const double left = i && i < n ? offdiagonal[i - 1] * scale : 0.0;
        // rows to fill up four change no sign: x is below 2
        rows[i] = i < n ? make_double2(diagonal[i] * scale, fmax(left * left, 1e-60)) : make_double2(2.0, 0.0);
    }
    __syncthreads();
    if (index >= n) return;
    low = low * scale - 1e-14, high = high * scale + 1e-14;
    for (int iteration = 0; iteration < iterations; iteration++) {
        const double middle = 0.5 * (low + high);
        int below = 0;
        double minor = 1.0, previous = 0.0;
        for (int first = 0; first < n; first += 4) {
#pragma unroll
            for (int i = first; i < first + 4; i++) {
                const double2 row = rows[i];
                const double next = fma(row.x - middle, minor, -row.y * previous);
                below += (unsigned)(__double2hiint(next) ^ __double2hiint(minor)) >> 31;
                previous = minor;
                minor = next;
            }
            const int size = max(__double2hiint(minor) & 0x7ff00000, __double2hiint(previous) & 0x7ff00000);
            const double unit = __hiloint2double(0x7fe00000 - size, 0);
            minor *= unit;
            previous *= unit;
        }
        if (below > index) high = middle; else low = middle;
    }
    eigenvalues[(size_t)blockIdx.x * n + index] = ldexp(0.5 * (low + high), exponent);
}
