#include "textflag.h"
#include "macros_amd64.h"

// In all functions, strides (ys, xs, xk, ws, wk) are in bytes, and every vector
// has 16 lanes of float32.

// Constants of Cephes' expf: log2(e), the parts of ln(2), the polynomial.
DATA expc<>+0(SB)/4, $1.44269504088896341
DATA expc<>+4(SB)/4, $0.693359375
DATA expc<>+8(SB)/4, $-2.12194440e-4
DATA expc<>+12(SB)/4, $1.9875691500e-4
DATA expc<>+16(SB)/4, $1.3981999507e-3
DATA expc<>+20(SB)/4, $8.3334519073e-3
DATA expc<>+24(SB)/4, $4.1665795894e-2
DATA expc<>+28(SB)/4, $1.6666665459e-1
DATA expc<>+32(SB)/4, $5.0000001201e-1
DATA expc<>+36(SB)/4, $1.0
DATA expc<>+40(SB)/4, $-104.0
DATA expc<>+44(SB)/4, $104.0
GLOBL expc<>(SB), RODATA|NOPTR, $48

// STEP multiplies the three weights at base by Z24 and Z25.
#define STEP2(base, b0, b1, b2, a0, a1, a2, a3, a4, a5) \
	VBROADCASTSS (base), b0; \
	VBROADCASTSS (base)(R8*1), b1; \
	VBROADCASTSS (base)(R8*2), b2; \
	VFMADD231PS Z24, b0, a0; \
	VFMADD231PS Z25, b0, a1; \
	VFMADD231PS Z24, b1, a2; \
	VFMADD231PS Z25, b1, a3; \
	VFMADD231PS Z24, b2, a4; \
	VFMADD231PS Z25, b2, a5

#define STEP1(base, b0, b1, b2, a0, a1, a2) \
	VBROADCASTSS (base), b0; \
	VBROADCASTSS (base)(R8*1), b1; \
	VBROADCASTSS (base)(R8*2), b2; \
	VFMADD231PS Z24, b0, a0; \
	VFMADD231PS Z24, b1, a1; \
	VFMADD231PS Z24, b2, a2

// BF16 multiplies 16 bfloat16 values at address by x.
#define BF16(address, x, t, sum) \
	VPMOVZXWD address, t; \
	VPSLLD $16, t, t; \
	VFMADD231PS x, t, sum

// I8 multiplies 16 int8 values at address by x.
#define I8(address, x, t, sum) \
	VPMOVSXBD address, t; \
	VCVTDQ2PS t, t; \
	VFMADD231PS x, t, sum

#define EXPCONSTANTS \
	VBROADCASTSS expc<>+0(SB), Z16; \
	VBROADCASTSS expc<>+4(SB), Z17; \
	VBROADCASTSS expc<>+8(SB), Z18; \
	VBROADCASTSS expc<>+12(SB), Z19; \
	VBROADCASTSS expc<>+16(SB), Z20; \
	VBROADCASTSS expc<>+20(SB), Z21; \
	VBROADCASTSS expc<>+24(SB), Z22; \
	VBROADCASTSS expc<>+28(SB), Z23; \
	VBROADCASTSS expc<>+32(SB), Z24; \
	VBROADCASTSS expc<>+36(SB), Z25; \
	VBROADCASTSS expc<>+40(SB), Z26; \
	VBROADCASTSS expc<>+44(SB), Z27

// EXP replaces x by e^x; t, n and p are scratch.
#define EXP(x, t, n, p) \
	VMAXPS Z26, x, x; \
	VMINPS Z27, x, x; \
	VMULPS Z16, x, t; \
	VRNDSCALEPS $8, t, n; \
	VFNMADD231PS Z17, n, x; \
	VFNMADD231PS Z18, n, x; \
	VMOVAPS Z19, p; \
	VFMADD213PS Z20, x, p; \
	VFMADD213PS Z21, x, p; \
	VFMADD213PS Z22, x, p; \
	VFMADD213PS Z23, x, p; \
	VFMADD213PS Z24, x, p; \
	VMULPS x, x, t; \
	VADDPS Z25, x, x; \
	VFMADD231PS t, p, x; \
	VSCALEFPS n, x, x

// func Pause()
TEXT ·Pause(SB), NOSPLIT, $0-0
	PAUSE
	RET

// func tile2(y, x, w *float32, ys, xs, xk, ws, wk, k int, add bool)
TEXT ·tile2(SB), NOSPLIT, $0-73
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), AX
	MOVQ ys+24(FP), R13
	MOVQ xs+32(FP), DX
	MOVQ xk+40(FP), R15
	MOVQ ws+48(FP), R8
	MOVQ wk+56(FP), R9
	MOVQ k+64(FP), CX
	LEAQ (R8)(R8*2), R10
	LEAQ (AX)(R10*1), BX
	LEAQ (BX)(R10*1), R11
	LEAQ (R11)(R10*1), R12
	ADDQ DI, R13
	ADDQ SI, DX
	CMPB add+72(FP), $0
	JNE  load2
	ZERO6(Z0, Z1, Z2, Z3, Z4, Z5)
	ZERO6(Z6, Z7, Z8, Z9, Z10, Z11)
	ZERO6(Z12, Z13, Z14, Z15, Z16, Z17)
	ZERO6(Z18, Z19, Z20, Z21, Z22, Z23)
	JMP  loop2

load2:
	LOAD3(0, DI, Z0, Z2, Z4)
	LOAD3(192, DI, Z6, Z8, Z10)
	LOAD3(384, DI, Z12, Z14, Z16)
	LOAD3(576, DI, Z18, Z20, Z22)
	LOAD3(0, R13, Z1, Z3, Z5)
	LOAD3(192, R13, Z7, Z9, Z11)
	LOAD3(384, R13, Z13, Z15, Z17)
	LOAD3(576, R13, Z19, Z21, Z23)

loop2:
	VMOVUPS (SI), Z24
	VMOVUPS (DX), Z25
	STEP2(AX, Z26, Z27, Z28, Z0, Z1, Z2, Z3, Z4, Z5)
	STEP2(BX, Z29, Z30, Z31, Z6, Z7, Z8, Z9, Z10, Z11)
	STEP2(R11, Z26, Z27, Z28, Z12, Z13, Z14, Z15, Z16, Z17)
	STEP2(R12, Z29, Z30, Z31, Z18, Z19, Z20, Z21, Z22, Z23)
	ADDQ R15, SI
	ADDQ R15, DX
	ADDQ R9, AX
	ADDQ R9, BX
	ADDQ R9, R11
	ADDQ R9, R12
	DECQ CX
	JNE  loop2
	STORE3(0, DI, Z0, Z2, Z4)
	STORE3(192, DI, Z6, Z8, Z10)
	STORE3(384, DI, Z12, Z14, Z16)
	STORE3(576, DI, Z18, Z20, Z22)
	STORE3(0, R13, Z1, Z3, Z5)
	STORE3(192, R13, Z7, Z9, Z11)
	STORE3(384, R13, Z13, Z15, Z17)
	STORE3(576, R13, Z19, Z21, Z23)
	VZEROUPPER
	RET

// func tile1(y, x, w *float32, xk, ws, wk, k int, add bool)
TEXT ·tile1(SB), NOSPLIT, $0-57
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), AX
	MOVQ xk+24(FP), R15
	MOVQ ws+32(FP), R8
	MOVQ wk+40(FP), R9
	MOVQ k+48(FP), CX
	LEAQ (R8)(R8*2), R10
	LEAQ (AX)(R10*1), BX
	LEAQ (BX)(R10*1), R11
	LEAQ (R11)(R10*1), R12
	CMPB add+56(FP), $0
	JNE  load1
	ZERO6(Z0, Z1, Z2, Z3, Z4, Z5)
	ZERO6(Z6, Z7, Z8, Z9, Z10, Z11)
	JMP  loop1

load1:
	LOAD3(0, DI, Z0, Z1, Z2)
	LOAD3(192, DI, Z3, Z4, Z5)
	LOAD3(384, DI, Z6, Z7, Z8)
	LOAD3(576, DI, Z9, Z10, Z11)

loop1:
	VMOVUPS (SI), Z24
	STEP1(AX, Z26, Z27, Z28, Z0, Z1, Z2)
	STEP1(BX, Z29, Z30, Z31, Z3, Z4, Z5)
	STEP1(R11, Z26, Z27, Z28, Z6, Z7, Z8)
	STEP1(R12, Z29, Z30, Z31, Z9, Z10, Z11)
	ADDQ R15, SI
	ADDQ R9, AX
	ADDQ R9, BX
	ADDQ R9, R11
	ADDQ R9, R12
	DECQ CX
	JNE  loop1
	STORE3(0, DI, Z0, Z1, Z2)
	STORE3(192, DI, Z3, Z4, Z5)
	STORE3(384, DI, Z6, Z7, Z8)
	STORE3(576, DI, Z9, Z10, Z11)
	VZEROUPPER
	RET

// func dotsF32(y, x, w *float32, ws, k int)
TEXT ·dotsF32(SB), NOSPLIT, $0-40
	DOTS
	SUBQ $32, CX
	JLT  f32rest

f32loop:
	VMOVUPS (SI), Z8
	VMOVUPS 64(SI), Z9
	VFMADD231PS (AX), Z8, Z0
	VFMADD231PS (R10), Z8, Z1
	VFMADD231PS (R11), Z8, Z2
	VFMADD231PS (BX), Z8, Z3
	VFMADD231PS 64(AX), Z9, Z4
	VFMADD231PS 64(R10), Z9, Z5
	VFMADD231PS 64(R11), Z9, Z6
	VFMADD231PS 64(BX), Z9, Z7
	ADDQ $128, SI
	ADDQ $128, AX
	ADDQ $128, BX
	ADDQ $128, R10
	ADDQ $128, R11
	SUBQ $32, CX
	JGE  f32loop

f32rest:
	ADDQ $32, CX
	JEQ  f32done
	CMPQ CX, $16
	JLT  f32mask
	VMOVUPS (SI), Z8
	VFMADD231PS (AX), Z8, Z0
	VFMADD231PS (R10), Z8, Z1
	VFMADD231PS (R11), Z8, Z2
	VFMADD231PS (BX), Z8, Z3
	ADDQ $64, SI
	ADDQ $64, AX
	ADDQ $64, R10
	ADDQ $64, R11
	ADDQ $64, BX
	SUBQ $16, CX
	JEQ  f32done

f32mask:
	MASK
	VMOVUPS.Z (SI), K1, Z8
	VMOVUPS.Z (AX), K1, Z9
	VMOVUPS.Z (R10), K1, Z10
	VMOVUPS.Z (R11), K1, Z11
	VMOVUPS.Z (BX), K1, Z12
	VFMADD231PS Z9, Z8, Z4
	VFMADD231PS Z10, Z8, Z5
	VFMADD231PS Z11, Z8, Z6
	VFMADD231PS Z12, Z8, Z7

f32done:
	SUMS
	RET

// func dotsBF16(y, x *float32, w *uint16, ws, k int)
TEXT ·dotsBF16(SB), NOSPLIT, $0-40
	DOTS
	SUBQ $32, CX
	JLT  bf16rest

bf16loop:
	PREFETCHNTA (AX)(R12*1)
	PREFETCHNTA (R10)(R12*1)
	PREFETCHNTA (R11)(R12*1)
	PREFETCHNTA (BX)(R12*1)
	VMOVUPS (SI), Z8
	VMOVUPS 64(SI), Z9
	BF16((AX), Z8, Z10, Z0)
	BF16((R10), Z8, Z11, Z1)
	BF16((R11), Z8, Z12, Z2)
	BF16((BX), Z8, Z13, Z3)
	BF16(32(AX), Z9, Z14, Z4)
	BF16(32(R10), Z9, Z15, Z5)
	BF16(32(R11), Z9, Z16, Z6)
	BF16(32(BX), Z9, Z17, Z7)
	ADDQ $128, SI
	ADDQ $64, AX
	ADDQ $64, BX
	ADDQ $64, R10
	ADDQ $64, R11
	SUBQ $32, CX
	JGE  bf16loop

bf16rest:
	ADDQ $32, CX
	JEQ  bf16done
	CMPQ CX, $16
	JLT  bf16mask
	VMOVUPS (SI), Z8
	BF16((AX), Z8, Z10, Z0)
	BF16((R10), Z8, Z11, Z1)
	BF16((R11), Z8, Z12, Z2)
	BF16((BX), Z8, Z13, Z3)
	ADDQ $64, SI
	ADDQ $32, AX
	ADDQ $32, R10
	ADDQ $32, R11
	ADDQ $32, BX
	SUBQ $16, CX
	JEQ  bf16done

bf16mask:
	MASK
	VMOVUPS.Z (SI), K1, Z8
	VMOVDQU16.Z (AX), K1, Y10
	VMOVDQU16.Z (R10), K1, Y11
	VMOVDQU16.Z (R11), K1, Y12
	VMOVDQU16.Z (BX), K1, Y13
	BF16(Y10, Z8, Z10, Z4)
	BF16(Y11, Z8, Z11, Z5)
	BF16(Y12, Z8, Z12, Z6)
	BF16(Y13, Z8, Z13, Z7)

bf16done:
	SUMS
	RET

// func dotsI8(y, x *float32, w *int8, ws, k int)
TEXT ·dotsI8(SB), NOSPLIT, $0-40
	DOTS
	SUBQ $32, CX
	JLT  i8rest

i8loop:
	PREFETCHT0 (AX)(R12*1)
	PREFETCHT0 (R10)(R12*1)
	PREFETCHT0 (R11)(R12*1)
	PREFETCHT0 (BX)(R12*1)
	VMOVUPS (SI), Z8
	VMOVUPS 64(SI), Z9
	I8((AX), Z8, Z10, Z0)
	I8((R10), Z8, Z11, Z1)
	I8((R11), Z8, Z12, Z2)
	I8((BX), Z8, Z13, Z3)
	I8(16(AX), Z9, Z14, Z4)
	I8(16(R10), Z9, Z15, Z5)
	I8(16(R11), Z9, Z16, Z6)
	I8(16(BX), Z9, Z17, Z7)
	ADDQ $128, SI
	ADDQ $32, AX
	ADDQ $32, BX
	ADDQ $32, R10
	ADDQ $32, R11
	SUBQ $32, CX
	JGE  i8loop

i8rest:
	ADDQ $32, CX
	JEQ  i8done
	CMPQ CX, $16
	JLT  i8mask
	VMOVUPS (SI), Z8
	I8((AX), Z8, Z10, Z0)
	I8((R10), Z8, Z11, Z1)
	I8((R11), Z8, Z12, Z2)
	I8((BX), Z8, Z13, Z3)
	ADDQ $64, SI
	ADDQ $16, AX
	ADDQ $16, R10
	ADDQ $16, R11
	ADDQ $16, BX
	SUBQ $16, CX
	JEQ  i8done

i8mask:
	MASK
	VMOVUPS.Z (SI), K1, Z8
	VMOVDQU8.Z (AX), K1, X10
	VMOVDQU8.Z (R10), K1, X11
	VMOVDQU8.Z (R11), K1, X12
	VMOVDQU8.Z (BX), K1, X13
	I8(X10, Z8, Z10, Z4)
	I8(X11, Z8, Z11, Z5)
	I8(X12, Z8, Z12, Z6)
	I8(X13, Z8, Z13, Z7)

i8done:
	SUMS
	RET

// func widenBF16(dst *float32, src *uint16, n int)
TEXT ·widenBF16(SB), NOSPLIT, $0-24
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	MOVQ n+16(FP), CX

wbloop:
	SUBQ $16, CX
	JLT  wbrest
	VPMOVZXWD (SI), Z0
	VPSLLD $16, Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $32, SI
	ADDQ $64, DI
	JMP  wbloop

wbrest:
	ADDQ $16, CX
	JEQ  wbdone
	MASK
	VMOVDQU16.Z (SI), K1, Y0
	VPMOVZXWD Y0, Z0
	VPSLLD $16, Z0, Z0
	VMOVUPS Z0, K1, (DI)

wbdone:
	VZEROUPPER
	RET

// func widenI8(dst *float32, src *int8, scale float32, n int)
TEXT ·widenI8(SB), NOSPLIT, $0-32
	MOVQ dst+0(FP), DI
	MOVQ src+8(FP), SI
	VBROADCASTSS scale+16(FP), Z1
	MOVQ n+24(FP), CX

wiloop:
	SUBQ $16, CX
	JLT  wirest
	VPMOVSXBD (SI), Z0
	VCVTDQ2PS Z0, Z0
	VMULPS Z1, Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $16, SI
	ADDQ $64, DI
	JMP  wiloop

wirest:
	ADDQ $16, CX
	JEQ  widone
	MASK
	VMOVDQU8.Z (SI), K1, X0
	VPMOVSXBD X0, Z0
	VCVTDQ2PS Z0, Z0
	VMULPS Z1, Z0, Z0
	VMOVUPS Z0, K1, (DI)

widone:
	VZEROUPPER
	RET

// func expPanel(x *float32, n int, top, sum *float32)
TEXT ·expPanel(SB), NOSPLIT, $0-32
	MOVQ x+0(FP), DI
	MOVQ n+8(FP), CX
	MOVQ top+16(FP), AX
	MOVQ sum+24(FP), BX
	EXPCONSTANTS
	VMOVUPS (AX), Z10
	VPXORD Z11, Z11, Z11
	VPXORD Z12, Z12, Z12
	SUBQ $2, CX
	JLT  exprest

exploop:
	VMOVUPS (DI), Z0
	VMOVUPS 64(DI), Z1
	VSUBPS Z10, Z0, Z0
	VSUBPS Z10, Z1, Z1
	EXP(Z0, Z2, Z3, Z4)
	EXP(Z1, Z5, Z6, Z7)
	VADDPS Z0, Z11, Z11
	VADDPS Z1, Z12, Z12
	VMOVUPS Z0, (DI)
	VMOVUPS Z1, 64(DI)
	ADDQ $128, DI
	SUBQ $2, CX
	JGE  exploop

exprest:
	ADDQ $2, CX
	JEQ  expdone
	VMOVUPS (DI), Z0
	VSUBPS Z10, Z0, Z0
	EXP(Z0, Z2, Z3, Z4)
	VADDPS Z0, Z11, Z11
	VMOVUPS Z0, (DI)

expdone:
	VADDPS Z12, Z11, Z11
	VMOVUPS Z11, (BX)
	VZEROUPPER
	RET

// func maxPanel(x *float32, n int, top *float32)
TEXT ·maxPanel(SB), NOSPLIT, $0-24
	MOVQ x+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ top+16(FP), BX
	VMOVUPS (BX), Z0

maxloop:
	VMAXPS (SI), Z0, Z0
	ADDQ $64, SI
	DECQ CX
	JNE  maxloop
	VMOVUPS Z0, (BX)
	VZEROUPPER
	RET

// func swiglu(y, gate, up *float32, n int)
TEXT ·swiglu(SB), NOSPLIT, $0-32
	MOVQ y+0(FP), DI
	MOVQ gate+8(FP), SI
	MOVQ up+16(FP), AX
	MOVQ n+24(FP), CX
	EXPCONSTANTS
	VPXORD Z10, Z10, Z10

swiloop:
	CMPQ CX, $16
	JLT  swirest
	VMOVUPS (SI), Z8
	VSUBPS Z8, Z10, Z0
	EXP(Z0, Z2, Z3, Z4)
	VADDPS Z25, Z0, Z0
	VDIVPS Z0, Z8, Z8
	VMULPS (AX), Z8, Z8
	VMOVUPS Z8, (DI)
	ADDQ $64, SI
	ADDQ $64, AX
	ADDQ $64, DI
	SUBQ $16, CX
	JMP  swiloop

swirest:
	TESTQ CX, CX
	JEQ  swidone
	MASK
	VMOVUPS.Z (SI), K1, Z8
	VMOVUPS.Z (AX), K1, Z9
	VSUBPS Z8, Z10, Z0
	EXP(Z0, Z2, Z3, Z4)
	VADDPS Z25, Z0, Z0
	VDIVPS Z0, Z8, Z8
	VMULPS Z9, Z8, Z8
	VMOVUPS Z8, K1, (DI)

swidone:
	VZEROUPPER
	RET

// func rotate(a, b, lo, hi, cos, sin *float32, n int)
TEXT ·rotate(SB), NOSPLIT, $0-56
	MOVQ a+0(FP), DI
	MOVQ b+8(FP), R8
	MOVQ lo+16(FP), SI
	MOVQ hi+24(FP), R9
	MOVQ cos+32(FP), AX
	MOVQ sin+40(FP), BX
	MOVQ n+48(FP), CX

rotloop:
	VMOVUPS (SI), Z0
	VMOVUPS (R9), Z1
	VMOVUPS (AX), Z2
	VMOVUPS (BX), Z3
	VMULPS Z2, Z0, Z4
	VMULPS Z2, Z1, Z5
	VFNMADD231PS Z3, Z1, Z4
	VFMADD231PS Z3, Z0, Z5
	VMOVUPS Z4, (DI)
	VMOVUPS Z5, (R8)
	ADDQ $64, SI
	ADDQ $64, R9
	ADDQ $64, AX
	ADDQ $64, BX
	ADDQ $64, DI
	ADDQ $64, R8
	DECQ CX
	JNE  rotloop
	VZEROUPPER
	RET

// func squares(x *float32, n int, sum *float32)
TEXT ·squares(SB), NOSPLIT, $0-24
	MOVQ x+0(FP), SI
	MOVQ n+8(FP), CX
	MOVQ sum+16(FP), BX
	VPXORD Z0, Z0, Z0
	VPXORD Z1, Z1, Z1

sqloop:
	SUBQ $2, CX
	JLT  sqrest
	VMOVUPS (SI), Z2
	VMOVUPS 64(SI), Z3
	VFMADD231PS Z2, Z2, Z0
	VFMADD231PS Z3, Z3, Z1
	ADDQ $128, SI
	JMP  sqloop

sqrest:
	ADDQ $2, CX
	JEQ  sqdone
	VMOVUPS (SI), Z2
	VFMADD231PS Z2, Z2, Z0

sqdone:
	VADDPS Z1, Z0, Z0
	VMOVUPS Z0, (BX)
	VZEROUPPER
	RET

// func scalePanel(y, x, w, r *float32, n int)
TEXT ·scalePanel(SB), NOSPLIT, $0-40
	MOVQ y+0(FP), DI
	MOVQ x+8(FP), SI
	MOVQ w+16(FP), AX
	MOVQ r+24(FP), BX
	MOVQ n+32(FP), CX
	VMOVUPS (BX), Z1

scaleloop:
	VMULPS (SI), Z1, Z0
	VMULPS.BCST (AX), Z0, Z0
	VMOVUPS Z0, (DI)
	ADDQ $64, SI
	ADDQ $64, DI
	ADDQ $4, AX
	DECQ CX
	JNE  scaleloop
	VZEROUPPER
	RET
