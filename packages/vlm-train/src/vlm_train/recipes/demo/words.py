"""Common English words to write into pictures."""

from __future__ import annotations

# fmt: off
WORDS = tuple("""
able about above acid actor after again agent agree air alarm album alert alive allow almost alone along also always
amount angle animal answer apple april area arm army around arrive art ask aunt autumn away baby back bad bag bake
ball band bank base basket bath beach bean bear beauty bed bee before begin behind bell belt bench best better bird
birth bite black blood blow blue board boat body bone book border born boss bottle bottom bowl box boy brain branch
bread break breakfast breath brick bridge bright bring brother brown brush build burn bus busy butter button buy cake
call camera camp candle car card care carry case castle cat catch cause cellar cent chair chance change cheap check
cheese chest child choice circle city class clean clear clock close cloth cloud coal coast coat coffee coin cold color
come common cook cool copper corn corner cost cotton cough count country course cover cow cream crime cross cruel cry
cup current cut damage dance danger dark date daughter day dead deal dear death december deep degree desk detail
dinner dirty discount dish doctor dog door double doubt down draw dream dress drink drive drop dry duck dust duty each
early earth east easy eat edge egg eight empty end engine enough entry equal error even event every exit eye face fact
fall family farm fast father fear feather february field fight find fine finger fire first fish flag flat flight floor
flower fly fold food foot force forest fork form four frame free fresh friday friend front fruit full future game
garden gas gate general gift girl give glad glass glove goat gold good grain grass gray great green ground group grow
guide gun hair half hammer hand happy harbor hard hat hate head healthy heart heat heavy hello help here high hill
history hobby hold hole holiday home honey hook hope horn horse hospital hotel hour house human humor hundred hungry
ice idea inch income insect inside invoice iron island item jacket jam january jelly jewel job join judge juice july
jump june jungle just keep kettle key kick kind king kiss kitchen knee knife knot know label lake lamp land language
large last late laugh law lead leaf learn leather left leg lemon letter level library life lift light limit line lion
lip liquid list little lock long loose loss loud love low lucky lunch machine magic mail main make man map march mark
market mass match may meal measure meat media medium meet melon memory menu metal middle milk mind mine minute mist
mix model monday money monkey month moon morning mother motion mouse mouth move much muscle music nail name narrow
nation near neck needle nerve net never new news next night nine noise normal north nose note notice november number
nurse nut oak ocean october offer office oil old olive onion only open opera orange order organ other oven over owner
page pain paint pair palace paper parcel park part party past paste path pay peace pen pencil pepper person phone
photo piano picture pig pilot pin pipe place plane plant plate play please pocket point polish poor port post potato
pound powder power present price print prison private profit proof public pull pump purple push queen question quick
quiet quite radio rail rain range rate raw ready reason receipt record red regret rest rhythm rice rich right ring
river road rock roll roof room root rose rough round route rule run rush sad safe sail salad salt same sand saturday
save scale school science screen sea seat second secret seed self sell sense seven shade shake shame sharp sheep shelf
ship shirt shock shoe shop short shut sick side sign silk silver simple sister size skin skirt sky sleep slip slope
slow small smart smell smile smoke smooth snake sneeze snow soap sock soft solid some son song soon sort sound soup
south space spade special sponge spoon spring square stage stamp star start station steam steel stem step stick stiff
still stitch stone stop store storm story street strong student subtotal sudden sugar summer sun sunday support sweet
swim table tail take talk tall taste tax tea teach team test thank theory thick thin thing thread three thumb thunder
thursday ticket tiger tight time tin tired toast today toe tomato tongue tool tooth top total touch tower town toy
trade train travel tray tree trick trouble truck true tube tuesday turn twist two umbrella under unit use valley value
verse vessel video view violet voice wait walk wall war warm wash waste watch water wave wax way weather wednesday
week weight west wet wheel whip whistle white wide wife wild wind window wine wing winter wire wise woman wonder wood
wool word work world worm wound write wrong yard year yellow yes yesterday young zebra zero zone
""".split())  # noqa: SIM905 - a list of words reads better as text
# fmt: on
