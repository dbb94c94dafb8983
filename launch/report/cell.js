const OUTCOME = {binned:"#4cc38a", wrong:"#ff6b5e", dropped:"#e69f00", missed:"#ff6b5e"};
const PART = {
  camera: "camera_top", top: [760, 1040], columnsOfReplay: "1.9fr 1fr", plots: "Belt, tool, fingers and joints",
  columns: ["parts_ordered","parts_binned","wrong_parts","picks_per_minute","cycle_s","grasp_attempts","grasps_held","parts_dropped","belt_speed_mps"],
  cards(m, card, range, p) {
    if (m.parts_binned_share) card("ordered parts binned", p(m.parts_binned_share.mean), range(m.parts_binned_share, p), m.parts_binned_share.mean >= .85 ? "good" : "bad");
    if (m.wrong_parts_share) card("wrong parts", p(m.wrong_parts_share.mean), "of those binned", m.wrong_parts_share.mean > .02 ? "bad" : "good");
    if (m.collision) card("collision", p(m.collision.mean), range(m.collision, p), m.collision.mean > 0 ? "bad" : "good");
    if (m.picks_per_minute) card("picks", num(m.picks_per_minute.mean,1)+" /min", range(m.picks_per_minute, v => num(v,1)));
    if (m.cycle_s) card("cycle", num(m.cycle_s.mean,1)+" s", range(m.cycle_s, v => num(v,1)));
    if (m.grasps_held_share) card("grasps that held", p(m.grasps_held_share.mean), range(m.grasps_held_share, p));
  },
  clock(T) {
    const wanted = (T.wanted||[]).map(([name, n]) => n < 100 ? `${n} ${name}` : name).join(", "), [binned, ordered, wrong] = T.count || [];
    return `belt ${num(T.belt)} m/s   ${T.count ? `${binned} of ${ordered} binned, ${wrong} wrong   ` : ""}wanted: ${wanted || "nothing"}   ${T.refused ? "REFUSED: "+T.refused : ""}`;
  },
  series: [
    ["belt, m/s", [["belt","#56b4e9","belt"]], 0, null],
    ["tool, m", [["tool","#56b4e9","height"],["width","#4cc38a","fingers"],["cw","#f0e442","fingers told"]], 0, null],
    ["fastest joint, rad/s", [["pj","#cc79a7","policy"],["cj","#f0e442","command"],["joints","#56b4e9","measured"]], 0, null]],
  draw(g, W, H, T) {
    if (!T.cell) return;
    const [[bl,bw], belt, reach] = T.cell, x0 = Math.min(0, belt[0], ...T.bins.map(b => b[0]-bl/2)) - .06, x1 = belt[2] + .06, y0 = Math.max(belt[1], -.6) - .06, y1 = Math.min(belt[3], 1) + .06;
    const sc = Math.min(W/(x1-x0), H/(y1-y0)), px = 1/sc; g.translate(W/2, H/2); g.scale(sc, -sc); g.translate(-(x0+x1)/2, -(y0+y1)/2); g.lineJoin = g.lineCap = "round";
    const rect = (a, b, c, d) => { g.beginPath(); g.rect(a, b, c-a, d-b); };
    rect(...belt); g.fillStyle = css(D.road); g.fill(); rect(...reach); g.strokeStyle = "#78aa8c"; g.lineWidth = 2*px; g.stroke();
    T.bins.forEach(([x,y], i) => { rect(x-bl/2, y-bw/2, x+bl/2, y+bw/2); g.strokeStyle = css(D.truth); g.lineWidth = 3*px; g.stroke();
      (T.wanted||[]).filter(w => w[2] === i).forEach(([name], j) => label(g, name, x-bl/2+8*px, y+bw/2-(24+20*j)*px, px, 17, css(RGB[name]))); });
    for (const t of T.truth || []) { box(g, t[1],t[2],t[3],t[4],t[5]); g.strokeStyle = css(D.truth); g.lineWidth = 2*px; g.stroke(); }
    fans(g, T, 3*px, () => true);
    const names = new Set((T.wanted||[]).map(w => w[0]));
    for (const t of T.tracks || []) { track(g, t, 2*px, t[9] <= .25 && names.has(t[1])); label(g, t[0], t[2]+14*px, t[3]-6*px, px, 15, "#c8c8c8"); }
    const A = T.arm || []; if (!A.length) return;
    path(g, A); g.strokeStyle = g.fillStyle = "#d6dce4"; g.lineWidth = 6*px; g.stroke(); for (const p of A) { g.beginPath(); g.arc(p[0],p[1],8*px,0,7); g.fill(); }
    const tip = A[A.length-1]; g.beginPath(); g.arc(tip[0],tip[1],Math.max(8*px, T.width/2),0,7); g.strokeStyle = "#fff"; g.lineWidth = 4*px; g.stroke();
  },
  timeline: {
    title: "Grasps", text: "One row per closing of the fingers: approach (grey), closed but not lifted (yellow), held (blue), let go; the mark says what became of the part. Click to move the replay there.",
    rows: ep => ep.row.grasps || [],
    label: r => r.part_id < 0 ? "nothing" : `${D.classes[r.class_id] || "distractor"}, part ${r.part_id}`,
    bars: r => { const end = r.released_tick ?? r.held_tick ?? r.close_tick; return [[r.approach_tick, r.close_tick, "#5a6474"], [r.close_tick, r.held_tick ?? end + 3, "#f0e442"], ...(r.held_tick == null ? [] : [[r.held_tick, end, "#56b4e9"]])]; },
    mark: r => [r.outcome || "open", OUTCOME[r.outcome] || "#8a94a3", r.outcome === "binned" ? `${((r.released_tick-r.approach_tick)/10).toFixed(1)} s` : ""],
  },
};
