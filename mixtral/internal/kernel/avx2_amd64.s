#include "textflag.h"
#include "macros_amd64.h"

// Functions of AVX2 and FMA. Every vector has 8 lanes of float32, half of a panel's
// row. There are no masks: counts are multiples of 16 columns or 8 values, and the
// callers compute the rest.

// EIGHT is a constant in 8 lanes.
#define EIGHT(at, v) \
	DATA exp8<>+(at+0)(SB)/4, v; \
	DATA exp8<>+(at+4)(SB)/4, v; \
	DATA exp8<>+(at+8)(SB)/4, v; \
	DATA exp8<>+(at+12)(SB)/4, v; \
	DATA exp8<>+(at+16)(SB)/4, v; \
	DATA exp8<>+(at+20)(SB)/4, v; \
	DATA exp8<>+(at+24)(SB)/4, v; \
	DATA exp8<>+(at+28)(SB)/4, v

// Constants of Cephes' expf: log2(e), the parts of ln(2), the polynomial; the bounds
// of x, and the exponent of 1.
EIGHT(0, $1.44269504088896341)
EIGHT(32, $0.693359375)
EIGHT(64, $-2.12194440e-4)
EIGHT(96, $1.9875691500e-4)
EIGHT(128, $1.3981999507e-3)
EIGHT(160, $8.3334519073e-3)
EIGHT(192, $4.1665795894e-2)
EIGHT(224, $1.6666665459e-1)
EIGHT(256, $5.0000001201e-1)
EIGHT(288, $1.0)
EIGHT(320, $-88.0)
EIGHT(352, $89.0)
EIGHT(384, $127)
GLOBL exp8<>(SB), RODATA|NOPTR, $416

// EXP replaces x by e^x = 2^n e^g; t, n and p are scratch. At the bounds, n is -127,
// whose power is written as 0, or 128, whose power is written as +Inf.
#define EXP(x, t, n, p) \
	VMAXPS exp8<>+320(SB), x, x; \
	VMINPS exp8<>+352(SB), x, x; \
	VMULPS exp8<>+0(SB), x, t; \
	VCVTPS2DQ t, n; \
	VCVTDQ2PS n, t; \
	VFNMADD231PS exp8<>+32(SB), t, x; \
	VFNMADD231PS exp8<>+64(SB), t, x; \
	VMOVUPS exp8<>+96(SB), p; \
	VFMADD213PS exp8<>+128(SB), x, p; \
	VFMADD213PS exp8<>+160(SB), x, p; \
	VFMADD213PS exp8<>+192(SB), x, p; \
	VFMADD213PS exp8<>+224(SB), x, p; \
	VFMADD213PS exp8<>+256(SB), x, p; \
	VMULPS x, x, t; \
	VADDPS exp8<>+288(SB), x, x; \
	VFMADD231PS t, p, x; \
	VPADDD exp8<>+384(SB), n, n; \
	VPSLLD $23, n, n; \
	VMULPS n, x, x

// LOAD6 loads three rows of 16 lanes of a tile.
#define LOAD6(at, a, b, c, d, e, f) \
	VMOVUPS (at)(DI), a; \
	VMOVUPS (at+32)(DI), b; \
	VMOVUPS (at+64)(DI), c; \
	VMOVUPS (at+96)(DI), d; \
	VMOVUPS (at+128)(DI), e; \
	VMOVUPS (at+160)(DI), f

#define STORE6(at, a, b, c, d, e, f) \
	VMOVUPS a, (at)(DI); \
	VMOVUPS b, (at+32)(DI); \
	VMOVUPS c, (at+64)(DI); \
	VMOVUPS d, (at+96)(DI); \
	VMOVUPS e, (at+128)(DI); \
	VMOVUPS f, (at+160)(DI)

// ROW multiplies a row's weight at address by the 16 lanes in Y12 and Y13.
#define ROW(address, t, a, b) \
	VBROADCASTSS address, t; \
	VFMADD231PS Y12, t, a; \
	VFMADD231PS Y13, t, b

// BF16 multiplies 8 bfloat16 values at address by x.
#define BF16(address, x, t, sum) \
	VPMOVZXWD address, t; \
	VPSLLD $16, t, t; \
	VFMADD231PS x, t, sum

// I8 multiplies 8 int8 values at address by x.
#define I8(address, x, t, sum) \
	VPMOVSXBD address, t; \
	VCVTDQ2PS t, t; \
	VFMADD231PS x, t, sum

// DOTS8 begins a dots function: sums are Y0-Y3, in columns of 8 more Y4-Y7.
#define DOTS8 \
	ARGS; \
	VXORPS Y0, Y0, Y0; \
	VXORPS Y1, Y1, Y1; \
	VXORPS Y2, Y2, Y2; \
	VXORPS Y3, Y3, Y3; \
	VXORPS Y4, Y4, Y4; \
	VXORPS Y5, Y5, Y5; \
	VXORPS Y6, Y6, Y6; \
	VXORPS Y7, Y7, Y7

// func tile6AVX2(y, x, w *float32, xk, ws, wk, k int, add bool)
TEXT ·tile6AVX2(SB), NOSPLIT, $0-57
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), AX
	MOVQ xk+24(FP), R15
	MOVQ ws+32(FP), R8
	MOVQ wk+40(FP), R9
	MOVQ k+48(FP), CX
	LEAQ (R8)(R8*2), BX
	ADDQ AX, BX
	CMPB add+56(FP), $0
	JNE  load
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1
	VXORPS Y2, Y2, Y2
	VXORPS Y3, Y3, Y3
	VXORPS Y4, Y4, Y4
	VXORPS Y5, Y5, Y5
	VXORPS Y6, Y6, Y6
	VXORPS Y7, Y7, Y7
	VXORPS Y8, Y8, Y8
	VXORPS Y9, Y9, Y9
	VXORPS Y10, Y10, Y10
	VXORPS Y11, Y11, Y11
	JMP  loop

load:
	LOAD6(0, Y0, Y1, Y2, Y3, Y4, Y5)
	LOAD6(192, Y6, Y7, Y8, Y9, Y10, Y11)

loop:
	VMOVUPS (SI), Y12
	VMOVUPS 32(SI), Y13
	ROW((AX), Y14, Y0, Y1)
	ROW((AX)(R8*1), Y15, Y2, Y3)
	ROW((AX)(R8*2), Y14, Y4, Y5)
	ROW((BX), Y15, Y6, Y7)
	ROW((BX)(R8*1), Y14, Y8, Y9)
	ROW((BX)(R8*2), Y15, Y10, Y11)
	ADDQ R15, SI
	ADDQ R9, AX
	ADDQ R9, BX
	DECQ CX
	JNE  loop
	STORE6(0, Y0, Y1, Y2, Y3, Y4, Y5)
	STORE6(192, Y6, Y7, Y8, Y9, Y10, Y11)
	VZEROUPPER
	RET

// func dotsF32AVX2(y, x, w *float32, ws, k int)
TEXT ·dotsF32AVX2(SB), NOSPLIT, $0-40
	DOTS8

loop:
	SUBQ $16, CX
	JLT  done
	VMOVUPS (SI), Y8
	VMOVUPS 32(SI), Y9
	VFMADD231PS (AX), Y8, Y0
	VFMADD231PS (R10), Y8, Y1
	VFMADD231PS (R11), Y8, Y2
	VFMADD231PS (BX), Y8, Y3
	VFMADD231PS 32(AX), Y9, Y4
	VFMADD231PS 32(R10), Y9, Y5
	VFMADD231PS 32(R11), Y9, Y6
	VFMADD231PS 32(BX), Y9, Y7
	ADDQ $64, SI
	ADDQ $64, AX
	ADDQ $64, R10
	ADDQ $64, R11
	ADDQ $64, BX
	JMP  loop

done:
	SUMS8
	RET

// func dotsBF16AVX2(y, x *float32, w *uint16, ws, k int)
TEXT ·dotsBF16AVX2(SB), NOSPLIT, $0-40
	DOTS8

loop:
	SUBQ $16, CX
	JLT  done
	PREFETCHNTA (AX)(R12*1)
	PREFETCHNTA (R10)(R12*1)
	PREFETCHNTA (R11)(R12*1)
	PREFETCHNTA (BX)(R12*1)
	VMOVUPS (SI), Y8
	VMOVUPS 32(SI), Y9
	BF16((AX), Y8, Y10, Y0)
	BF16((R10), Y8, Y11, Y1)
	BF16((R11), Y8, Y12, Y2)
	BF16((BX), Y8, Y13, Y3)
	BF16(16(AX), Y9, Y14, Y4)
	BF16(16(R10), Y9, Y15, Y5)
	BF16(16(R11), Y9, Y10, Y6)
	BF16(16(BX), Y9, Y11, Y7)
	ADDQ $64, SI
	ADDQ $32, AX
	ADDQ $32, R10
	ADDQ $32, R11
	ADDQ $32, BX
	JMP  loop

done:
	SUMS8
	RET

// func dotsI8AVX2(y, x *float32, w *int8, ws, k int)
TEXT ·dotsI8AVX2(SB), NOSPLIT, $0-40
	DOTS8

loop:
	SUBQ $16, CX
	JLT  done
	PREFETCHT0 (AX)(R12*1)
	PREFETCHT0 (R10)(R12*1)
	PREFETCHT0 (R11)(R12*1)
	PREFETCHT0 (BX)(R12*1)
	VMOVUPS (SI), Y8
	VMOVUPS 32(SI), Y9
	I8((AX), Y8, Y10, Y0)
	I8((R10), Y8, Y11, Y1)
	I8((R11), Y8, Y12, Y2)
	I8((BX), Y8, Y13, Y3)
	I8(8(AX), Y9, Y14, Y4)
	I8(8(R10), Y9, Y15, Y5)
	I8(8(R11), Y9, Y10, Y6)
	I8(8(BX), Y9, Y11, Y7)
	ADDQ $64, SI
	ADDQ $16, AX
	ADDQ $16, R10
	ADDQ $16, R11
	ADDQ $16, BX
	JMP  loop

done:
	SUMS8
	RET

// func widenBF16AVX2(dst *float32, src *uint16, n int)
TEXT ·widenBF16AVX2(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

loop:
	SUBQ $8, CX
	JLT  done
	VPMOVZXWD (SI), Y0
	VPSLLD $16, Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $16, SI
	ADDQ $32, DI
	JMP  loop

done:
	VZEROUPPER
	RET

// func widenI8AVX2(dst *float32, src *int8, scale float32, n int)
TEXT ·widenI8AVX2(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	VBROADCASTSS scale+16(FP), Y1
	MOVQ n+24(FP), CX

loop:
	SUBQ $8, CX
	JLT  done
	VPMOVSXBD (SI), Y0
	VCVTDQ2PS Y0, Y0
	VMULPS Y1, Y0, Y0
	VMOVUPS Y0, (DI)
	ADDQ $8, SI
	ADDQ $32, DI
	JMP  loop

done:
	VZEROUPPER
	RET

// func expPanelAVX2(x *float32, n int, top, sum *float32)
TEXT ·expPanelAVX2(SB), NOSPLIT, $0-32
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ top+16(FP), AX
	MOVQ sum+24(FP), BX
	VMOVUPS (AX), Y10
	VMOVUPS 32(AX), Y11
	VXORPS Y12, Y12, Y12
	VXORPS Y13, Y13, Y13

loop:
	VMOVUPS (DI), Y0
	VMOVUPS 32(DI), Y1
	VSUBPS Y10, Y0, Y0
	VSUBPS Y11, Y1, Y1
	EXP(Y0, Y2, Y3, Y4)
	EXP(Y1, Y5, Y6, Y7)
	VADDPS Y0, Y12, Y12
	VADDPS Y1, Y13, Y13
	VMOVUPS Y0, (DI)
	VMOVUPS Y1, 32(DI)
	ADDQ $64, DI
	DECQ CX
	JNE  loop
	VMOVUPS Y12, (BX)
	VMOVUPS Y13, 32(BX)
	VZEROUPPER
	RET

// func maxPanelAVX2(x *float32, n int, top *float32)
TEXT ·maxPanelAVX2(SB), NOSPLIT, $0-24
	MOVQ x+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ top+16(FP), BX
	VMOVUPS (BX), Y0
	VMOVUPS 32(BX), Y1

loop:
	VMAXPS (SI), Y0, Y0
	VMAXPS 32(SI), Y1, Y1
	ADDQ $64, SI
	DECQ CX
	JNE  loop
	VMOVUPS Y0, (BX)
	VMOVUPS Y1, 32(BX)
	VZEROUPPER
	RET

// func swigluAVX2(y, gate, up *float32, n int)
TEXT ·swigluAVX2(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ gate+8(FP), SI
	MOVQ up+16(FP), AX
	MOVQ n+24(FP), CX
	VXORPS Y10, Y10, Y10

loop:
	SUBQ $8, CX
	JLT  done
	VMOVUPS (SI), Y8
	VSUBPS Y8, Y10, Y0
	EXP(Y0, Y2, Y3, Y4)
	VADDPS exp8<>+288(SB), Y0, Y0
	VDIVPS Y0, Y8, Y8
	VMULPS (AX), Y8, Y8
	VMOVUPS Y8, (DI)
	ADDQ $32, SI
	ADDQ $32, AX
	ADDQ $32, DI
	JMP  loop

done:
	VZEROUPPER
	RET

// func rotateAVX2(a, b, lo, hi, cos, sin *float32, n int)
TEXT ·rotateAVX2(SB), NOSPLIT, $0-56
	MOVQ a+0(FP), DI
	MOVQ b+8(FP), R8
	MOVQ lo+16(FP), SI
	MOVQ hi+24(FP), R9
	MOVQ cos+32(FP), AX
	MOVQ sin+40(FP), BX
	MOVQ n+48(FP), CX
	ADDQ CX, CX

loop:
	VMOVUPS (SI), Y0
	VMOVUPS (R9), Y1
	VMOVUPS (AX), Y2
	VMOVUPS (BX), Y3
	VMULPS Y2, Y0, Y4
	VMULPS Y2, Y1, Y5
	VFNMADD231PS Y3, Y1, Y4
	VFMADD231PS Y3, Y0, Y5
	VMOVUPS Y4, (DI)
	VMOVUPS Y5, (R8)
	ADDQ $32, SI
	ADDQ $32, R9
	ADDQ $32, AX
	ADDQ $32, BX
	ADDQ $32, DI
	ADDQ $32, R8
	DECQ CX
	JNE  loop
	VZEROUPPER
	RET

// func squaresAVX2(x *float32, n int, sum *float32)
TEXT ·squaresAVX2(SB), NOSPLIT, $0-24
	MOVQ x+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ sum+16(FP), BX
	VXORPS Y0, Y0, Y0
	VXORPS Y1, Y1, Y1

loop:
	VMOVUPS (SI), Y2
	VMOVUPS 32(SI), Y3
	VFMADD231PS Y2, Y2, Y0
	VFMADD231PS Y3, Y3, Y1
	ADDQ $64, SI
	DECQ CX
	JNE  loop
	VMOVUPS Y0, (BX)
	VMOVUPS Y1, 32(BX)
	VZEROUPPER
	RET

// func scalePanelAVX2(y, x, w, r *float32, n int)
TEXT ·scalePanelAVX2(SB), NOSPLIT, $0-40
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), AX
	MOVQ r+24(FP), BX
	MOVQ n+32(FP), CX
	VMOVUPS (BX), Y1
	VMOVUPS 32(BX), Y2

loop:
	VBROADCASTSS (AX), Y5
	VMULPS (SI), Y1, Y3
	VMULPS 32(SI), Y2, Y4
	VMULPS Y5, Y3, Y3
	VMULPS Y5, Y4, Y4
	VMOVUPS Y3, (DI)
	VMOVUPS Y4, 32(DI)
	ADDQ $64, SI
	ADDQ $64, DI
	ADDQ $4, AX
	DECQ CX
	JNE  loop
	VZEROUPPER
	RET
