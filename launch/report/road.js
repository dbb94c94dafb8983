const PART = {
  camera: "camera_front", top: [1040, 1040], plots: "Speed and commands",
  columns: ["mean_speed_mps","min_ttc_s","max_jerk_mps3","max_lateral_mps2","route_completion"],
  cards(m, card, range, p) {
    if (m.collision) card("collision", p(m.collision.mean), range(m.collision, p), m.collision.mean > 0 ? "bad" : "good");
    if (m.offroad) card("off road", p(m.offroad.mean), "");
    for (const [k, unit, d] of [["mean_speed_mps","m/s",1],["min_ttc_s","s",1],["max_jerk_mps3","m/s³",1],["max_lateral_mps2","m/s²",1]])
      if (m[k]) card(k.replace(/_[a-z0-9]+$/,"").replace(/_/g," ").replace("ttc","TTC"), `${num(m[k].mean,d)} ${unit}`, range(m[k], v => num(v,d)));
  },
  clock: T => T.v != null ? (T.v*3.6).toFixed(0)+" km/h" : "",
  series: [
    ["speed, m/s", [["v","#56b4e9","speed"],["limit","#8a94a3","limit"]], 0, null],
    ["acceleration, m/s²", [["pa","#cc79a7","policy"],["ca","#f0e442","command"],["a","#56b4e9","measured"]], null, null],
    ["front wheels, rad", [["ps","#cc79a7","policy"],["cs","#f0e442","command"],["s","#56b4e9","measured"]], null, null]],
  draw(g, W, H, T) {
    if (!T.ego) return; const [ex,ey,eyaw] = T.ego, sc = W/110;
    g.translate(W/2, H*.68); g.scale(sc, -sc); g.rotate(Math.PI/2 - eyaw); g.translate(-ex, -ey); g.lineJoin = "round";
    if (T.road) {
      const P = T.road, n = P.length, N = P.map((p,i) => { const a = P[Math.max(0,i-1)], b = P[Math.min(n-1,i+1)], l = Math.hypot(b[0]-a[0], b[1]-a[1]) || 1; return [-(b[1]-a[1])/l, (b[0]-a[0])/l]; });
      const [lanes, w] = T.lanes, off = d => P.map((p,i) => [p[0]+N[i][0]*d, p[1]+N[i][1]*d]);
      path(g, off(-w/2).concat(off((lanes-.5)*w).reverse())); g.fillStyle = css(D.road); g.fill();
      for (let i=0;i<=lanes;i++) { path(g, off((i-.5)*w)); g.setLineDash(i===0||i===lanes ? [] : [2,4]); g.strokeStyle = "#8b929c"; g.lineWidth = .15; g.stroke(); } g.setLineDash([]);
    }
    for (const t of T.truth || []) { box(g, t[1],t[2],t[3],t[4],t[5]); g.strokeStyle = css(D.truth); g.lineWidth = .2; g.stroke(); }
    fans(g, T, .25, t => t[1] !== "cone");
    for (const t of T.tracks || []) track(g, t, .25, t[9] <= .25);
    box(g, ex,ey,eyaw,4.5,1.8); g.fillStyle = "#fff"; g.fill();
  },
};
